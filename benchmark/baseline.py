"""What a run is compared with: a small, readable JSON file of numbers and tolerances, one entry a cell."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from benchmark.attack_score import attack_score, converged, passes_planted
from benchmark.cell import RESULTS_VERSION, Plan
from benchmark.errors import UserError
from benchmark.record import SCHEMA, Record
from benchmark.record_values import claimed, number
from benchmark.rows import GOALS, Slot, axes_text, configuration, slots

Baseline = dict[str, Any]
Tolerances = Mapping[str, Mapping[str, float]]

FORMAT = 2
ENTRY = {"status", "targets", "n", "scores", "tolerance", "planted", "converged"}
# The least that counts as a change, whatever was measured. utility: ten of a thousand test images. inputs: an input
# moved by 1e-7 (another CPU's rounding) was seen to move one restart's SSIM by .05, which is .08 of leakage beside a
# control of .4. labels: one target of twenty. client_model: as inputs, without the control. epsilon: accountants are
# deterministic up to their own grid.
FLOORS = {"utility": 0.01, "inputs": 0.08, "labels": 0.05, "client_model": 0.05, "epsilon": 0.01}
UNBOUNDED = ("invalid", "inf")
EPSILON = "epsilon_"


def make_baseline(
    records: Sequence[Record], tolerances: Tolerances | None = None, plan: Plan | None = None
) -> Baseline:
    """A baseline as JSON values: small, readable, the same for the same records in any order.

    Args:
        records: Of one suite.
        tolerances: Measured ones, `measure_tolerance`; `FLOORS` hold where they are smaller or missing.
        plan: What should be there; a cell without a record is entered as failing.

    Raises:
        UserError: There is nothing to enter, or records of different suites meet.
    """
    found = slots(records, plan)
    if not found:
        raise UserError("a baseline of no cells would pass everything: run the suite first")
    suite, digest = (plan.suite, plan.suite_digest) if plan else (records[0].suite, records[0].suite_digest)
    cells = {axes_text(slot.axes): entry(slot, (tolerances or {}).get(axes_text(slot.axes), {})) for slot in found}
    return {
        "format": FORMAT,
        "suite": suite,
        "suite_digest": digest,
        "versions": {"results": RESULTS_VERSION, "record": SCHEMA, **_versions(records)},
        "cells": cells,
    }


def measure_tolerance(records: Sequence[Record], perturbed: Sequence[Record]) -> dict[str, dict[str, float]]:
    """What a perturbation that should not matter moves, as tolerances for `make_baseline`.

    A cell's own move is a single draw, so each cell gets twice the largest over the victim seeds of the same defense
    under the same attack.

    Args:
        records: The run as it is.
        perturbed: The same cells with inputs moved by 1e-7, or from another machine.

    Returns:
        Cell (as `benchmark.rows.axes_text`) -> metric -> twice the largest absolute move.
    """
    other = {axes_text(slot.axes): _numbers(slot.done) for slot in slots(perturbed) if slot.done}
    moves: dict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    places: dict[str, tuple[object, ...]] = {}
    for slot in slots(records):
        text = axes_text(slot.axes)
        if slot.done is None or text not in other:
            continue
        axes = slot.axes
        victim = (axes.dataset, axes.model, axes.topology, axes.cut, axes.cut_reached, axes.defense, axes.params)
        place = places[text] = (*victim, configuration(axes))
        for metric, value in _numbers(slot.done).items():
            after = other[text].get(metric)
            if isinstance(value, float) and isinstance(after, float) and math.isfinite(value - after):
                moves[place][metric] = max(moves[place].get(metric, 0.0), 2 * abs(value - after))
    return {text: moves[place] for text, place in places.items()}


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Write a baseline as indented JSON with sorted keys.

    Raises:
        UserError: The file cannot be written.
    """
    text = json.dumps(baseline, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"{path}: the baseline cannot be written ({error.strerror}); choose another file") from None


def read_baseline(path: Path) -> Baseline:
    """Read what `write_baseline` wrote.

    Raises:
        UserError: The file is missing, not JSON, holds NaN, or is not a baseline of this format.
    """
    remedy = "make one with `unsplit-bench baseline SUITE -o FILE`"

    def refuse(constant: str) -> float:
        raise ValueError(f"it holds {constant}")

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise UserError(f"{path}: the baseline cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a baseline ({error}); {remedy}") from None
    wanted = {"format": int, "suite": str, "suite_digest": str, "versions": dict, "cells": dict}
    for key, kind in wanted.items():
        if not isinstance(value, dict) or not isinstance(value.get(key), kind):
            raise UserError(f"{path}: not a baseline, {key!r} is missing or of the wrong type; {remedy}")
    if value["format"] != FORMAT:
        raise UserError(f"{path}: baseline format {value['format']} is not {FORMAT}; {remedy}")
    for text, entry in value["cells"].items():
        if not isinstance(entry, dict) or not set(entry) >= ENTRY:
            raise UserError(f"{path}: cell {text!r} is not an entry of a baseline; {remedy}")
        if not all(isinstance(entry[key], dict) for key in ("scores", "tolerance", "planted")):
            raise UserError(f"{path}: cell {text!r}: scores, tolerance and planted must be mappings; {remedy}")
    baseline: Baseline = value
    return baseline


def entry(slot: Slot, measured: Mapping[str, float]) -> Baseline:
    """A cell as JSON values; one without finite numbers counts as failed.

    Beside each score stands whether its attack passed its planted clients for that goal, and whether it converged: a
    score that fell because the attack broke is no merit of the defense.

    Args:
        slot: The cell.
        measured: Metric -> measured tolerance.
    """
    empty: Baseline = {"key": slot.key, "status": "failed", "targets": None, "n": 0, "scores": {}, "tolerance": {}}
    empty |= {"planted": {}, "converged": None}
    if slot.done is None:
        why = "there is no record" if slot.record is None else str(slot.record.reason)
        return {**empty, "reason": why}
    scores = _numbers(slot.done)
    missing = [metric for metric, value in scores.items() if value not in UNBOUNDED and not is_number(value)]
    if missing:
        return {**empty, "reason": f"no finite number for {', '.join(missing)}"}
    return {
        "key": slot.key,
        "status": "done",
        "targets": slot.done.targets.get("digest"),
        "n": len(slot.done.targets.get("ids", [])),
        "scores": {metric: value if isinstance(value, str) else round(value, 6) for metric, value in scores.items()},
        "tolerance": {m: round(max(floor(m), measured.get(m, 0.0)), 6) for m in scores},
        "planted": {GOALS[goal]: passes_planted(slot.done, GOALS[goal]) for goal in slot.done.axes.goals},
        "converged": converged(slot.done),
    }


def _numbers(record: Record) -> dict[str, float | str]:
    scores: dict[str, float | str] = {"utility": number(record.utility, "accuracy")}
    for goal in record.axes.goals:
        score = attack_score([record], GOALS[goal]).score
        scores[GOALS[goal]] = float(np.clip(score, 0.0, 1.0))
    for claim in record.privacy:
        metric = f"{EPSILON}{claim.get('view')}"
        value = claimed(claim)
        stated: float | str = "invalid" if math.isnan(value) else "inf" if math.isinf(value) else value
        scores[metric] = max((stated, scores.get(metric, stated)), key=_weakness)
    return scores


def _weakness(value: float | str) -> float:
    return {"invalid": math.inf, "inf": math.inf}[value] if isinstance(value, str) else value


def _versions(records: Sequence[Record]) -> dict[str, str]:
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for name, version in record.run.get("environment", {}).items():
            found[name].add(str(version))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def floor(metric: str) -> float:
    """The least that counts as a change of a metric."""
    return FLOORS.get("epsilon" if metric.startswith(EPSILON) else metric, 0.0)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
