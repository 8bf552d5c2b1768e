"""Which of two rows is defended more strongly, and which of two attacks may spend more."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from benchmark.record import Record
from benchmark.record_values import epsilon
from benchmark.rows import Configuration
from benchmark.standing import PHASES, Standing

# Parameters of attacks by the names they go by: more of it never takes anything away from an attacker.
BUDGETS = frozenset({"rounds", "steps", "input_steps", "model_steps", "epochs", "restarts", "checkpoints", "draws"})


def stronger_first(standing: Standing, rows: Sequence[Standing]) -> Iterator[tuple[Standing, Standing]]:
    """Pairs (weaker, stronger) of a row and others of the same defense that differ in one number.

    Whether a larger number is stronger, a parameter's name does not tell. What was measured does: the noise over the
    signal, else the epsilon claimed, else how much of what is sent the defense changes. Whoever holds the output of
    the weaker of two noises, clips, roundings or masks of a kind can make the stronger one's from it, so that an
    attacker who knows what he does never finds more behind the stronger. Rows without such a measure are left out.
    """
    for other in rows:
        if other is standing or other.row.key.defense != standing.row.key.defense:
            continue
        if not _one_number_apart(other.row.key.params, standing.row.key.params):
            continue
        own, its = _strength(standing), _strength(other)
        measure = next((name for name in own if name in its and own[name] != its[name]), None)
        if measure is not None:
            weaker, stronger = sorted((standing, other), key=lambda row: _strength(row)[measure])
            yield weaker, stronger


def with_more_budget(standing: Standing) -> Iterator[tuple[Configuration, Configuration]]:
    """Pairs (less, more) of attacks that differ in nothing but how often targets were seen, or in one budget."""
    keys = list(standing.samples)
    for less in keys:
        for more in keys:
            if less._replace(views=more.views) == more and less.views < more.views:
                yield less, more
            if less._replace(attack_params=more.attack_params) == more and _more_spent(less, more):
                yield less, more


def _more_spent(less: Configuration, more: Configuration) -> bool:
    first, second = parameters(less.attack_params), parameters(more.attack_params)
    differing = _differing(first, second)
    if len(differing) != 1 or not differing <= BUDGETS:
        return False
    (name,) = differing
    return _number(first.get(name)) < _number(second.get(name))


def parameters(text: str) -> dict[str, str]:
    """Parameters by name from their canonical text `key=value,key=value`; a value may hold commas."""
    parts = re.split(r",(?=[A-Za-z_]\w*=)", text) if text else []
    return {key: value for key, _, value in (part.partition("=") for part in parts)}


def _one_number_apart(first: str, second: str) -> bool:
    own, its = parameters(first), parameters(second)
    differing = _differing(own, its)
    return len(differing) == 1 and all(
        math.isfinite(_number(values[name])) for values in (own, its) for name in differing if name in values
    )


def _differing(first: dict[str, str], second: dict[str, str]) -> set[str]:
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _strength(standing: Standing) -> dict[str, float]:
    """Measures of strength, the surest first; larger is stronger."""
    labels = standing.row.key.goal == "labels"
    claim = epsilon(standing.row.records, "labels" if labels else "activations")
    measures = {
        "noise": standing.over_victims(_noise_to_rms),
        "epsilon": -claim if isinstance(claim, float) else math.nan,
        "distortion": standing.over_victims(lambda record: _distortion(record, labels)),
    }
    return {name: value for name, value in measures.items() if math.isfinite(value)}


def _noise_to_rms(record: Record) -> float:
    return max((value for name, value in record.reached.items() if name.endswith(".noise_to_rms")), default=math.nan)


def _distortion(record: Record, labels: bool) -> float:
    sent = record.evidence.get("sent", {})
    channels = [record.evidence.get("gradients")] if labels else [sent.get(phase) for phase in PHASES]
    found = [channel["distortion"] for channel in channels if channel and channel.get("distortion") is not None]
    return float(np.mean(found)) if found else math.nan
