"""How one attack configuration did: its normalised score beside its controls, and whether it came to rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.metrics.statistics import Array, Sample, resampled_scores
from benchmark.record import Record
from benchmark.record_values import NAN, number
from benchmark.rows import GOALS

SCORED_BY = {"inputs": "ssim_aligned", "labels": "accuracy", "client_model": "steal_accuracy"}
SETTLED_CHANGE = 0.01
# Written into a record by the run, which tries every attack on planted clients; see `benchmark.planted_verdicts`.
PLANTED_CLIENT_FAILED = "planted_client_failed"
PLANTED_CLIENT_UNKNOWN = "planted_client_unknown"


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
        planted: Whether it passes its planted clients for this goal; where not, its own failures say nothing.
    """

    score: float
    mean: float
    control: str
    control_mean: float
    exposed: tuple[float, float]
    converged: float
    planted: bool

    @property
    def speaks(self) -> bool:
        """Whether what it did not find may count: it came to rest in every cell and passes its planted client."""
        return self.converged == 1.0 and self.planted


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
        planted=all(passes_planted(record, goal) for record in records),
    )


def passes_planted(record: Record, goal: str) -> bool:
    """Whether the attack succeeded on planted clients, which hide nothing; for this goal where the run tells.

    Args:
        record: Of a cell that is done.
        goal: `inputs`, `labels` or `client_model`.
    """
    by_goal = (record.run.get("planted") or {}).get("goals", {})
    stated = [passed for name, passed in by_goal.items() if GOALS.get(name) == goal]
    return all(stated) if stated else not {PLANTED_CLIENT_FAILED, PLANTED_CLIENT_UNKNOWN} & set(record.flags)


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
