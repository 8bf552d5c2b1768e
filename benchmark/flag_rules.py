"""What each flag looks for in a row's records; `benchmark.flags` says what each finding means.

A rule is given a row and the table it is ranked in, and returns one sentence about what it found in this row, or None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.record import Record
from benchmark.record_values import claimed, number
from benchmark.rows import RowKey, axes_text, configurations, includes, undefended
from benchmark.standing import Standing

INDICATIVE_UNDER = 3
# Two attacks of one method differ by more than this before F1 speaks: five hundredths of the leakage scale, what
# one restart moves when the inputs move by 1e-7.
WORSE_BY = 0.05
STANCES = {"oblivious": 0, "aware": 1, "adaptive": 2}


@dataclass(frozen=True)
class Table:
    """The rows that a row is ranked among.

    Attributes:
        rows: All of them.
        trusted: Keys of those that can be ranked: no fatal flag, and a utility tier.
    """

    rows: Sequence[Standing]
    trusted: frozenset[RowKey] = frozenset()


def incomplete(standing: Standing, table: Table) -> str | None:
    """A planned cell is missing, failed or was skipped, so that means are gaps."""
    if standing.row.complete:
        return None
    missing = [slot for slot in standing.row.slots if slot.done is None]
    first = missing[0]
    if first.record is None:
        why = "has not been run"
    else:
        why = f"{first.record.status}: {first.record.reason or 'no reason given'}"
    return (
        f"{len(missing)} of {len(standing.row.slots)} planned cells are not done; "
        f"attack {first.axes.attack} at seed {first.axes.seed} {why}"
    )


def constant_or_nan(standing: Standing, table: Table) -> str | None:
    """A result is NaN or infinite, or every attack returns a constant."""
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


def no_room(standing: Standing, table: Table) -> str | None:
    """The best control scores what a perfect attack would, so that nothing is left to measure."""
    for key, score in standing.scores.items():
        if math.isfinite(score.mean) and math.isfinite(score.control_mean) and not math.isfinite(score.score):
            return f"beside attack {key.title} the control {score.control} reaches {score.control_mean:.3f}"
    return None


def no_control(standing: Standing, table: Table) -> str | None:
    """An attack has no control beside it, so that its score means nothing."""
    for key, score in standing.scores.items():
        if not math.isfinite(score.control_mean):
            return f"attack {key.title} has no finite control"
    return None


def utility_at_majority(standing: Standing, table: Table) -> str | None:
    """The defended network predicts no better than its commonest class."""
    majority = standing.over_victims(lambda record: number(record.utility, "majority"))
    if standing.utility <= majority:
        return f"accuracy {standing.utility:.3f}, commonest class {majority:.3f}"
    return None


def epsilon_without_ground(standing: Standing, table: Table) -> str | None:
    """An epsilon is claimed without what it takes to believe it."""
    for record in standing.row.records:
        for claim in record.privacy:
            value = claim.get("epsilon")
            # An infinite epsilon promises nothing, so that it needs no ground.
            if value is None or math.isinf(claimed(claim)):
                continue
            delta = claim.get("delta")
            lacking = [name for name in ("unit", "adjacency", "accountant") if not claim.get(name)]
            if math.isnan(claimed(claim)):
                lacking.append("an epsilon of at least 0")
            if not (isinstance(delta, int | float) and 0 <= delta < 1):
                lacking.append("a delta in [0, 1)")
            if claim.get("why_invalid"):
                lacking.append(f"validity ({claim['why_invalid']})")
            if lacking:
                return f"epsilon_{claim.get('view')} {value} lacks {', '.join(lacking)}"
    return None


def not_established(standing: Standing, table: Table) -> str | None:
    """The attack that leaks most did not converge at every seed: the leakage is a lower bound."""
    if standing.worst is None or standing.established:
        return None
    return f"{standing.scores[standing.worst].converged:.0%} of the cells of {standing.worst.title} converged"


def fails_undefended(standing: Standing, table: Table) -> str | None:
    """The table's attacks gain nothing even where nothing is defended: their failure is no merit of a defense."""
    for other in table.rows:
        if other.row.key.defense == "none" and math.isfinite(other.low) and other.low <= 0:
            return f"without a defense the same attacks reach {other.leakage:.3f}, an interval from {other.low:.3f}"
    return None


def planted(standing: Standing, table: Table) -> str | None:
    """Every attack fails on a planted client that hides nothing (F3)."""
    records = standing.row.records
    if records and all("planted_client_failed" in record.flags for record in records):
        return "all attacks of the row fail on a planted client"
    return None


def reused_noise(standing: Standing, table: Table) -> str | None:
    """The defense's noise repeats between queries (F10)."""
    return _seen_by_run(standing, "reused_noise")


def randomised(standing: Standing, table: Table) -> str | None:
    """The output is random and no attack saw a target more than once (F5)."""
    if any(record.axes.views > 1 for record in standing.row.records):
        return None
    return _seen_by_run(standing, "randomised_output")


def _seen_by_run(standing: Standing, code: str) -> str | None:
    seeds = sorted({record.axes.seed for record in standing.row.records if code in record.flags})
    return f"seen while running at seed {', '.join(map(str, seeds))}" if seeds else None


def not_converged(standing: Standing, table: Table) -> str | None:
    """An attack's own loss still moved by 1 % or more over the last tenth of its budget."""
    names = [key.title for key, score in standing.scores.items() if score.converged < 1]
    return f"not converged at every seed: {'; '.join(names)}" if names else None


def indicative(standing: Standing, table: Table) -> str | None:
    """Fewer than 3 victim seeds: the interval covers less than it says."""
    n = len({slot.axes.seed for slot in standing.row.slots})
    return f"{n} victim seed{'s' if n > 1 else ''}" if n < INDICATIVE_UNDER else None


def below_control(standing: Standing, table: Table) -> str | None:
    """The attack that leaks most does worse than a control that does without what leaks."""
    if standing.worst is None or standing.scores[standing.worst].score >= 0:
        return None
    score = standing.scores[standing.worst]
    without = "the gradient" if standing.row.key.goal == "labels" else "the smashed data"
    return (
        f"{standing.worst.title} scores {score.mean:.3f}, the control {score.control} {score.control_mean:.3f} "
        f"without {without}"
    )


def weaker_beats_stronger(standing: Standing, table: Table) -> str | None:
    """The same method does worse with more knowledge."""
    for weak, low in standing.scores.items():
        for strong, high in standing.scores.items():
            knows_more = includes(strong.threat_model, weak.threat_model) and STANCES.get(
                strong.stance, 0
            ) >= STANCES.get(weak.stance, 0)
            same_place = (strong.phase, strong.targets) == (weak.phase, weak.targets)
            moved = (strong.threat_model, strong.stance) != (weak.threat_model, weak.stance)
            if (
                strong.attack == weak.attack
                and knows_more
                and moved
                and same_place
                and low.score > high.score + WORSE_BY
            ):
                return (
                    f"{weak.title} ({weak.threat_model}, {weak.stance}) reaches {low.score:.3f}, "
                    f"{strong.title} ({strong.threat_model}, {strong.stance}) {high.score:.3f}"
                )
    return None


def fewer_attacks(standing: Standing, table: Table) -> str | None:
    """Not attacked by what other defenses of this table were attacked by."""
    if standing.row.key.defense == "none":
        return None
    own = set(configurations(standing.row.slots))
    missing = sorted({key.title for other in table.rows for key in configurations(other.row.slots) if key not in own})
    return f"not attacked by {'; '.join(missing)}" if missing else None


def wider_than_gap(standing: Standing, table: Table) -> str | None:
    """The interval is wider than the distance to the next row of its tier."""
    gaps = {
        abs(other.leakage - standing.leakage): other
        for other in sorted(table.rows, key=lambda other: other.row.key.defense, reverse=True)
        if other is not standing and other.tier == standing.tier and other.row.key in table.trusted
    }
    if not gaps or standing.row.key not in table.trusted:
        return None
    gap, width = min(gaps), standing.high - standing.low
    if width <= gap:
        return None
    neighbour = gaps[gap].row.key
    return f"interval {width:.3f} wide, {neighbour.defense} {neighbour.params} is {gap:.3f} away".replace("  ", " ")


def epsilon_invalid(standing: Standing, table: Table) -> str | None:
    """A mechanism ran whose epsilon would not be valid."""
    for record in standing.row.records:
        for claim in record.privacy:
            if claim.get("epsilon") is None:
                return f"{claim.get('view')}: {claim.get('why_invalid') or 'no reason stated'}"
    return None


def inactive(standing: Standing, table: Table) -> str | None:
    """Every result is bit-identical to that without a defense."""
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
    return None


def _outcome(record: Record) -> tuple[object, ...]:
    return record.per_image, record.scalars, record.utility.get("accuracy")
