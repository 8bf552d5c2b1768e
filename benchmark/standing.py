"""Where a row stands: its leakage with its interval, its utility, and what it claims and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.metrics.statistics import (
    Array,
    Sample,
    interval,
    mean_interval,
    resampled_scores,
    wilson,
    worst_scores,
)
from benchmark.record import Record
from benchmark.rows import Configuration, Row, Slot, configurations

NAN = float("nan")
TIERS = (0.02, 0.10)
SCORED_BY = {"inputs": "ssim_aligned", "labels": "accuracy", "client_model": "steal_accuracy"}
PRIVACY_VIEWS = ("activations", "weights", "labels")
SETTLED_CHANGE = 0.01

Epsilon = float | str | None


@dataclass(frozen=True)
class AttackScore:
    """How one configuration did, over all its seeds and images.

    Attributes:
        score: Normalised, not cut at 0; NaN where it cannot be told.
        mean: Mean of what the goal is scored by (aligned SSIM, accuracy).
        control: Name of the best control.
        control_mean: Its mean.
        exposed: 95th percentile and maximum over images, normalised like `score`.
        converged: Share of its cells that converged.
    """

    score: float
    mean: float
    control: str
    control_mean: float
    exposed: tuple[float, float]
    converged: float


@dataclass(frozen=True)
class Standing:
    """A row with everything computed from its own records.

    Attributes:
        row: The cells.
        scores: Every configuration whose planned cells are all done.
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
    def established(self) -> bool:
        """Whether an attack that sets the worst score converged at every seed: else leakage is only a lower bound."""
        if self.worst is None:
            return False
        # Of attacks that reach the same score, one that came to rest speaks for it.
        worst = self.scores[self.worst].score
        return any(score.score == worst and score.converged == 1.0 for score in self.scores.values())

    def worst_mean(self, metric: str) -> float:
        """Mean of a per-image metric over the worst attack's cells; NaN where it has none."""
        if self.worst is None:
            return NAN
        return slot_mean(configurations(self.row.slots)[self.worst], lambda record: image_mean(record, metric))

    def over_victims(self, value: Callable[[Record], float]) -> float:
        """Mean over the planned victim seeds of what a record says of its victim; NaN where one has no done cell."""
        return victim_means(self.row.slots, value)[0]


def stand(row: Row) -> Standing:
    """Compute a row's standing. A number over an incomplete set of cells is NaN."""
    goal = row.key.goal
    scores: dict[Configuration, AttackScore] = {}
    samples: list[list[Sample]] = []
    for key, found in configurations(row.slots).items():
        records = [slot.done for slot in found if slot.done is not None]
        if len(records) == len(found):
            samples.append([sample(record, goal) for record in records])
            scores[key] = attack_score(records, goal)
    draws = np.array([NAN])
    worst = None
    if row.complete:
        position, draws = worst_scores(samples)
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


def sample(record: Record, goal: str) -> Sample:
    """What a done record says about a goal; NaN where it lacks what the goal is scored by."""
    if goal == "inputs":
        score = record.per_image.get("ssim_aligned", [])
    elif goal == "labels":
        score = record.per_image.get("correct", [])
    else:
        score = [number(record.scalars, "steal_accuracy")]
    values = _finite(np.asarray(score or [NAN], dtype=np.float64))
    ceiling = number(record.scalars, "victim_accuracy") if goal == "client_model" else 1.0
    return Sample(
        seed=record.axes.seed,
        attack_seed=record.axes.attack_seed,
        targets=str(record.targets.get("digest")),
        score=values,
        controls={
            name: _spread(metrics[SCORED_BY[goal]], len(values))
            for name, metrics in record.controls.items()
            if SCORED_BY[goal] in metrics
        },
        ceiling=np.full(len(values), ceiling),
    )


def attack_score(records: Sequence[Record], goal: str) -> AttackScore:
    """How one configuration did; `records` are all of its cells."""
    samples = [sample(record, goal) for record in records]
    score = float(resampled_scores(samples, sorted({s.seed for s in samples}), resamples=0)[0])
    shared = sorted(set.intersection(*(set(s.controls) for s in samples)))
    means = {name: _seed_mean(samples, [s.controls[name] for s in samples]) for name in shared}
    control = max(means, key=lambda name: means[name], default="")
    control_mean = means.get(control, NAN)
    exposed = (NAN, NAN)
    if goal == "inputs" and math.isfinite(score):
        images = (np.concatenate([s.score for s in samples]) - control_mean) / (1 - control_mean)
        images = images.clip(0.0, 1.0)
        exposed = float(np.quantile(images, 0.95)), float(images.max())
    return AttackScore(
        score=score,
        mean=_seed_mean(samples, [s.score for s in samples]),
        control=control,
        control_mean=control_mean,
        exposed=exposed,
        converged=sum(converged(record) for record in records) / len(records),
    )


def converged(record: Record) -> bool:
    """Whether the attack spent its budget to its end.

    The run's own verdict counts where there is one: it also knows the residual of the truth. Otherwise the loss must
    have changed by less than 1 % over the last tenth of its trace. An attack that takes no steps has nothing to
    converge; one that takes steps and shows no trace has not shown that it converged.
    """
    said = record.convergence.get("converged")
    if isinstance(said, bool):
        return said
    trace = record.convergence.get("trace") or {}
    loss = [float(value) for value in trace.get("loss", [])]
    if len(loss) < 2:
        return not record.convergence.get("steps")
    earlier, last = loss[-1 - max(1, len(loss) // 10)], loss[-1]
    if not (math.isfinite(earlier) and math.isfinite(last)):
        return False
    return abs(earlier - last) < SETTLED_CHANGE * abs(earlier) or earlier == last


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


def _spread(values: Sequence[float], n: int) -> Array:
    # Label and stealing controls are single values beside n images.
    array = _finite(np.asarray(values, dtype=np.float64))
    if len(array) == n:
        return array
    return np.full(n, array[0] if len(array) == 1 else NAN)


def _finite(values: Array) -> Array:
    # An infinite score is no more a measurement than NaN is.
    return np.where(np.isfinite(values), values, NAN)


def _seed_mean(samples: Sequence[Sample], values: Sequence[Array]) -> float:
    by_seed: dict[int, list[float]] = {}
    for entry, value in zip(samples, values, strict=True):
        by_seed.setdefault(entry.seed, []).append(float(value.mean()))
    return float(np.mean([np.mean(by_seed[seed]) for seed in sorted(by_seed)]))
