"""Numbers read from records, with NaN for what is missing, and their means over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.metrics.statistics import mean_interval
from benchmark.record import Record
from benchmark.rows import Slot

NAN = float("nan")
PRIVACY_VIEWS = ("activations", "weights", "labels")

Epsilon = float | str | None


def epsilon(records: Sequence[Record], view: str) -> Epsilon:
    """What the defenses claim for one view of the server.

    Returns:
        The largest number claimed at any seed or by any of the defenses, "invalid" where one mechanism ran
        without a valid number, "inf" where nothing (or an infinite number) is claimed, None where nothing was measured.
    """
    if not records:
        return None
    claims = [claimed(claim) for record in records for claim in record.privacy if claim.get("view") == view]
    if not claims:
        return "inf"
    if any(math.isnan(value) for value in claims):
        return "invalid"
    return "inf" if math.isinf(max(claims)) else max(claims)


def claimed(claim: Mapping[str, Any]) -> float:
    """The epsilon of a privacy statement in a record: infinite for the text "inf", NaN where it is not a valid number.

    "inf" is what a record holds of a mechanism that ran without noise: JSON knows no infinity.
    """
    value = claim.get("epsilon")
    if value == "inf":
        return math.inf
    return float(value) if isinstance(value, int | float) and value >= 0 else NAN


def number(values: Mapping[str, float], key: str) -> float:
    """`values[key]`, or NaN where it is missing."""
    value = values.get(key)
    return NAN if value is None else float(value)


def image_mean(record: Record, metric: str) -> float:
    """Mean over images of a per-image metric; NaN where the record has none."""
    values = record.per_image.get(metric)
    return float(np.mean(values)) if values else NAN


# Whom reconstructions identify and whether an independent classifier reads them, each beside what it is held against.
READINGS: Mapping[str, Callable[[Record], float]] = {
    "identification": lambda record: image_mean(record, "identified"),
    "identification_chance": lambda record: number(record.scalars, "identification_chance"),
    "recognition": lambda record: image_mean(record, "recognised"),
    "recognition_of_truth": lambda record: number(record.scalars, "recognition_of_truth"),
}


def slot_mean(found: Sequence[Slot], value: Callable[[Record], float]) -> float:
    """Mean over attack seeds, then victim seeds; NaN where a cell is not done or a value is missing."""
    by_seed: dict[int, list[float]] = {}
    for slot in found:
        by_seed.setdefault(slot.axes.seed, []).append(NAN if slot.done is None else value(slot.done))
    return float(np.mean([np.mean(by_seed[seed]) for seed in sorted(by_seed)])) if by_seed else NAN


def victim_means(found: Sequence[Slot], value: Callable[[Record], float]) -> tuple[float, float, float]:
    """Mean and interval over the planned victim seeds of what their records say; NaN where a seed has no done cell."""
    planned = {slot.axes.seed for slot in found}
    said: dict[int, list[float]] = {}
    for slot in found:
        if slot.done is not None:
            said.setdefault(slot.axes.seed, []).append(value(slot.done))
    return mean_interval({seed: float(np.mean(said[seed])) if seed in said else NAN for seed in planned})
