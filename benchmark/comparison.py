"""How much more one row leaks than another, with the interval of their paired difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.metrics.statistics import Array, Sample, interval, worst_scores
from benchmark.record_values import NAN
from benchmark.standing import Standing


@dataclass(frozen=True)
class Difference:
    """A difference of two leakages with its 95 % interval, in [-1, 1]; NaN where it is not known.

    Attributes:
        estimate: First minus second.
        low, high: Ends of the interval of the paired difference.
    """

    estimate: float
    low: float
    high: float


def leakage_change(standing: Standing, base: Standing) -> Difference:
    """What a row leaks more (or, below 0, less) than `base`, at the same victim seeds and on the same images.

    Both rows are resampled alike, seed by seed and image by image, so that what all victims and images share cancels.
    Victim seeds that only one of the rows has are left out. Where labels leave the bootstrap no spread at all, the
    interval is that of two independent rows (Newcombe, 1998, "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, method 10), which is wider.
    """
    if standing.worst is None or base.worst is None:
        return Difference(NAN, NAN, NAN)
    if standing.seeds == base.seeds:
        found = _of(standing.draws, base.draws)
    else:
        found = difference(standing.samples.values(), base.samples.values())
    if standing.row.key.goal == "labels" and found.low == found.high and standing is not base:
        return _apart(standing, base)
    return found


def difference(first: Iterable[Sequence[Sample]], second: Iterable[Sequence[Sample]]) -> Difference:
    """Worst of some attacks minus worst of others, paired over the victim seeds that both have.

    Args:
        first, second: Samples of each attack configuration.
    """
    sides = [[list(samples) for samples in side] for side in (first, second)]
    shared = set.intersection(*({s.seed for samples in side for s in samples} for side in sides))
    kept = [[[s for s in samples if s.seed in shared] for samples in side] for side in sides]
    known = [[samples for samples in side if samples] for side in kept]
    if not all(known):
        return Difference(NAN, NAN, NAN)
    return _of(*(worst_scores(side)[1].clip(0.0, 1.0) for side in known))


def _of(first: Array, second: Array) -> Difference:
    draws = first - second
    low, high = interval(draws)
    return Difference(float(draws[0]) if np.isfinite(draws[0]) else NAN, low, high)


def _apart(first: Standing, second: Standing) -> Difference:
    estimate = first.leakage - second.leakage
    down = math.hypot(first.leakage - first.low, second.high - second.leakage)
    up = math.hypot(first.high - first.leakage, second.leakage - second.low)
    return Difference(estimate, max(-1.0, estimate - down), min(1.0, estimate + up))
