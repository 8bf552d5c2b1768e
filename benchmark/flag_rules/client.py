"""Flags on what the harness found out about the defended client and the data: `benchmark.evidence`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmark.flag_rules.table import Table
from benchmark.record import Record
from benchmark.record_values import number
from benchmark.rows import axes_text, undefended
from benchmark.standing import PHASES, Standing

SENDS = {"protect_inputs", "protect_activations"}


def constant_or_nan(standing: Standing, table: Table) -> str | None:
    """A result is NaN or infinite, or what is sent, or every attack's result, is the same for all images."""
    for record, phase, channel in _sent(standing):
        where = f"what is sent in {phase} at seed {record.axes.seed}"
        if not channel.get("finite", True):
            return f"{where} is not finite" + (f": {channel['problem']}" if channel.get("problem") else "")
        if channel.get("constant"):
            return f"{where} is the same for all images"
    goal, records = standing.row.key.goal, standing.row.records
    metrics = {"inputs": "ssim_aligned", "labels": "correct"}
    for record in records:
        values = (
            record.per_image.get(metrics[goal], []) if goal in metrics else [number(record.scalars, "steal_accuracy")]
        )
        if not values or not np.isfinite(values).all():
            return f"attack {record.axes.attack} at seed {record.axes.seed} has no finite score"
        if not math.isfinite(number(record.utility, "accuracy")):
            return f"the victim at seed {record.axes.seed} has no finite accuracy"
    if records and goal == "inputs" and all(_is_constant(record) for record in records):
        return "every attack's reconstructions score as a constant image does, image by image"
    return None


def _is_constant(record: Record) -> bool:
    # Aligned by least squares, every constant image becomes the truth's mean: equal errors, image by image.
    control = record.controls.get("constant", {}).get("mse_aligned")
    own = record.per_image.get("mse_aligned")
    return bool(control and own and len(control) == len(own) and np.allclose(own, control, rtol=1e-6, atol=1e-9))


def reused_noise(standing: Standing, table: Table) -> str | None:
    """The defense's noise repeats between queries: who knows one sample subtracts it from all."""
    for record, place, channel in _channels(standing):
        if channel.get("frozen"):
            return (
                f"two queries of the same images are answered alike in {place} at seed {record.axes.seed}, although "
                "another stream or another place in the batch gets other noise"
            )
    return None


def randomised(standing: Standing, table: Table) -> str | None:
    """What is sent is random, and no attack saw a target more than once or averages over the defense's draws."""
    met: dict[str, bool] = {}
    for record in standing.row.records:
        averages = record.axes.views > 1 or record.axes.stance == "adaptive"
        met[record.axes.phase] = met.get(record.axes.phase, False) or averages
    for _, place, channel in _channels(standing):
        phase = "training" if place == "gradients" else place
        if channel.get("random") and met.get(phase) is False:
            what = "the gradient sent back" if place == "gradients" else "what is sent"
            return (
                f"{what} in {phase} differs from query to query, and no attack there had more than one view or an "
                "adaptive stance"
            )
    return None


def gradient_masked(standing: Standing, table: Table) -> str | None:
    """Nobody can differentiate through the defense, so that attacks which need a gradient fail without its merit."""
    if standing.row.key.goal == "labels":
        return None
    said = {"zero": "zero everywhere", "none": "cut off", "not finite": "not finite"}
    found = {
        phase: said[str(channel.get("gradient"))]
        for _, phase, channel in _sent(standing)
        if channel.get("gradient") in said
    }
    if not found:
        return None
    return "; ".join(f"in {phase} the gradient through its hooks is {what}" for phase, what in found.items())


def auxiliary_overlap(standing: Standing, table: Table) -> str | None:
    """Private images stand among the attacker's own, so that attacks with auxiliary images show too much."""
    for record in standing.row.records:
        found = record.evidence.get("targets_in_auxiliary", 0)
        if found:
            return (
                f"{found} of {record.evidence.get('n_targets')} targets ({record.axes.targets}, {record.axes.phase}) "
                "are among the auxiliary images, pixel for pixel"
            )
    return None


def inactive(standing: Standing, table: Table) -> str | None:
    """The defense does nothing: all results are those without it, or what is sent in a phase is the bare head's."""
    if standing.row.key.defense == "none" or not standing.row.records:
        return None
    plain = {
        axes_text(record.axes): record
        for other in table.rows
        if other.row.key.defense == "none"
        for record in other.row.records
    }
    pairs = [(record, plain.get(axes_text(undefended(record.axes)))) for record in standing.row.records]
    matched = [(record, other) for record, other in pairs if other is not None]
    if matched and all(_outcome(record) == _outcome(other) for record, other in matched):
        return f"identical in all {len(matched)} cells that `none` has too"
    # A defense that only trains otherwise, or only noises gradients, has nothing to do with what is sent.
    if not all(SENDS & set(record.evidence.get("hooks", ())) for record in standing.row.records):
        return None
    bare = [phase for phase in PHASES if standing.sends_bare(phase)]
    return f"its hooks of {' and '.join(bare)} leave the head's output as it is, bit by bit" if bare else None


def _outcome(record: Record) -> tuple[object, ...]:
    return record.per_image, record.scalars, record.utility.get("accuracy")


def _sent(standing: Standing) -> Iterator[tuple[Record, str, dict[str, Any]]]:
    for record in standing.row.records:
        for phase, channel in record.evidence.get("sent", {}).items():
            yield record, phase, channel


def _channels(standing: Standing) -> Iterator[tuple[Record, str, dict[str, Any]]]:
    """What the row's goal is inferred from: what is sent, and for labels the gradient sent back too."""
    yield from _sent(standing)
    if standing.row.key.goal == "labels":
        for record in standing.row.records:
            channel = record.evidence.get("gradients")
            if channel:
                yield record, "gradients", channel
