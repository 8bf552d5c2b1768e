"""Where a row stands: its leakage with its interval, its utility, and what it claims and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.attack_score import AttackScore, attack_score, sample
from benchmark.metrics.statistics import Array, Sample, interval, wilson, worst_scores
from benchmark.record import Record
from benchmark.record_values import NAN, image_mean, number, slot_mean, victim_means
from benchmark.rows import Configuration, Row, configurations

TIERS = (0.02, 0.10)
# From the least to the most that an attack knows of the defense.
STANCES = ("oblivious", "aware", "adaptive")
PHASES = ("inference", "training")


@dataclass(frozen=True)
class Standing:
    """A row with everything computed from its own records.

    Attributes:
        row: The cells.
        scores: Every configuration whose planned cells are all done.
        samples: What their cells say, for comparing configurations of two rows.
        worst: The configuration that leaks most, or None where that is not known.
        draws: [1 + resamples] leakage, cut to [0, 1]: of the data, then of each resample; NaN where not known.
        leakage, low, high: Leakage with its 95 % interval, in [0, 1].
        p95, maximum: The most exposed images, worst over attacks, in [0, 1]; goal `inputs` only.
        white_box: Leakage to the reference that knows the client's weights.
        utility: Mean test accuracy over victim seeds.
        drop, drop_high: Accuracy lost against no defense at the same seed, as a fraction (0.02 is two points), and
            the upper end of its interval.
        tier: 1 (drop at most two points, by the upper end), 2 (ten) or 3; None where the drop is not known.
        n_done: Planned cells that are done.
        seeds: Victim seeds with a done cell.
    """

    row: Row
    scores: Mapping[Configuration, AttackScore]
    samples: Mapping[Configuration, Sequence[Sample]]
    worst: Configuration | None
    draws: Array
    leakage: float
    low: float
    high: float
    p95: float
    maximum: float
    white_box: float
    utility: float
    drop: float
    drop_high: float
    tier: int | None
    n_done: int
    seeds: tuple[int, ...]

    @property
    def mandatory(self) -> tuple[str, ...]:
        """The stances a row must have been attacked in: there is nothing to know about no defense."""
        return STANCES[:1] if self.row.key.defense == "none" else STANCES

    @property
    def silent(self) -> tuple[str, ...]:
        """The mandatory stances without an attack that came to rest at every seed and passes its planted client."""
        heard = {key.stance for key, score in self.scores.items() if score.speaks}
        return tuple(stance for stance in self.mandatory if stance not in heard)

    @property
    def worst_speaks(self) -> bool:
        """Whether an attack that sets the worst score came to rest at every seed and passes its planted client."""
        if self.worst is None:
            return False
        # Of attacks that reach the same score, one that came to rest speaks for it.
        worst = self.scores[self.worst].score
        return any(score.score == worst and score.speaks for score in self.scores.values())

    @property
    def established(self) -> bool:
        """Whether leakage is more than a lower bound: the attack that sets it, and one of each stance, speak."""
        return self.worst_speaks and not self.silent

    def sends_bare(self, phase: str) -> bool:
        """Whether what is sent in a phase is bit-identical to the head's own output, at every seed."""
        found = [record.evidence.get("sent", {}).get(phase, {}) for record in self.row.records]
        return bool(found) and all(channel.get("inactive", False) for channel in found)

    def worst_mean(self, metric: str) -> float:
        """Mean of a per-image metric over the worst attack's cells; NaN where it has none."""
        return self.over_worst(lambda record: image_mean(record, metric))

    def over_worst(self, value: Callable[[Record], float]) -> float:
        """Mean over the worst attack's cells of what a record says; NaN where that attack is not known."""
        return NAN if self.worst is None else slot_mean(configurations(self.row.slots)[self.worst], value)

    def most(self, value: Callable[[Record], float]) -> float:
        """The largest mean of any attack's cells; NaN where the worst attack is not known, or none has such a value."""
        if self.worst is None:
            return NAN
        means = [slot_mean(found, value) for found in configurations(self.row.slots).values()]
        return max((mean for mean in means if math.isfinite(mean)), default=NAN)

    def over_victims(self, value: Callable[[Record], float]) -> float:
        """Mean over the planned victim seeds of what a record says of its victim; NaN where one has no done cell."""
        return victim_means(self.row.slots, value)[0]


def stand(row: Row) -> Standing:
    """Compute a row's standing. A number over an incomplete set of cells is NaN."""
    goal = row.key.goal
    scores: dict[Configuration, AttackScore] = {}
    samples: dict[Configuration, list[Sample]] = {}
    for key, found in configurations(row.slots).items():
        records = [slot.done for slot in found if slot.done is not None]
        if len(records) == len(found):
            samples[key] = [sample(record, goal) for record in records]
            scores[key] = attack_score(records, goal)
    draws = np.array([NAN])
    worst = None
    if row.complete:
        position, draws = worst_scores(list(samples.values()))
        worst = list(scores)[position] if np.isfinite(draws[0]) else None
        draws = draws.clip(0.0, 1.0)
    low, high = interval(draws)
    if worst is not None and goal == "labels":
        low, high = _widened(low, high, scores[worst], row)
    drop, _, drop_high = victim_means(
        row.slots, lambda record: number(record.utility, "undefended_accuracy") - number(record.utility, "accuracy")
    )
    exposed = [score.exposed for score in scores.values()] if worst is not None else []
    return Standing(
        row=row,
        scores=scores,
        samples=samples,
        worst=worst,
        draws=draws,
        leakage=float(draws[0]),
        low=low,
        high=high,
        p95=max((p95 for p95, _ in exposed), default=NAN),
        maximum=max((maximum for _, maximum in exposed), default=NAN),
        white_box=_reference(row, goal),
        utility=victim_means(row.slots, lambda record: number(record.utility, "accuracy"))[0],
        drop=drop,
        drop_high=drop_high,
        # A rounding error of the mean must not cost a tier.
        tier=None if math.isnan(drop_high) else 1 + sum(drop_high > limit + 1e-9 for limit in TIERS),
        n_done=len(row.records),
        seeds=tuple(sorted({record.axes.seed for record in row.records})),
    )


def _reference(row: Row, goal: str) -> float:
    if not row.references or any(slot.done is None for slot in row.references):
        return NAN
    scores = [
        attack_score([slot.done for slot in found if slot.done is not None], goal).score
        for found in configurations(row.references).values()
    ]
    return float(np.clip(np.max(scores), 0.0, 1.0))


def _widened(low: float, high: float, worst: AttackScore, row: Row) -> tuple[float, float]:
    # Nothing inferred in 20 of 20 targets gives a bootstrap no spread at all, but is no proof of safety: Wilson's
    # interval over distinct images keeps a width there.
    trials = min(len(record.per_image["correct"]) for record in row.records)
    bounds = wilson(round(worst.mean * trials), trials)
    ends = [(bound - worst.control_mean) / (1 - worst.control_mean) for bound in bounds]
    return min(low, max(0.0, ends[0])), max(high, min(1.0, ends[1]))
