"""How far a score can be trusted: the hierarchical bootstrap that every interval and every tie comes from.

The same targets are attacked at every victim seed, so images are crossed with seeds: a resample draws seeds, draws
images once for all seeds that share a target set (the pigeonhole bootstrap of Owen, 2007, "The pigeonhole bootstrap",
Annals of Applied Statistics 1(2); resampling images anew at each seed would lose the images' own share of the
spread), and draws attack seeds inside each drawn seed. The best control and the worst attack are taken anew in every
resample. Draws are named by what is drawn, never by call order: rows with the same seeds and targets are resampled
alike, which makes their differences paired.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """What one cell says about one goal.

    Attributes:
        seed: Victim seed.
        attack_seed: Seed of the attack's draws.
        targets: Name of the target set; samples that share it share their resampled images.
        score: One value an image, [n]; a single value where the goal is not scored by image.
        controls: Control name -> its values on the same images, [n].
        ceiling: What a perfect attack would score, [n]: 1, or the victim's accuracy for a clone.
    """

    seed: int
    attack_seed: int
    targets: str
    score: Array
    controls: Mapping[str, Array]
    ceiling: Array


def resampled_scores(samples: Sequence[Sample], seeds: Sequence[int], resamples: int = RESAMPLES) -> Array:
    """Normalised score of one attack, `(mean s - c) / (mean ceiling - c)`, c the best control's mean; not cut at 0.

    Args:
        samples: Of one attack configuration: victim seeds x attack seeds, at least one.
        seeds: The victim seeds to draw from: those of the whole row, so that its attacks are resampled together.
        resamples: How many.

    Returns:
        [1 + resamples]: first the score of the data as they are, then one score a resample. NaN where a value is
        NaN, no control is shared by all samples, the ceiling does not exceed the control, or no drawn seed has a
        sample.
    """
    weights = _cell_weights(samples, seeds, resamples)

    def mean(values: Sequence[Array]) -> Array:
        columns = [_image_weights(s.targets, len(v), resamples) @ v for s, v in zip(samples, values, strict=True)]
        return np.asarray((weights * np.stack(columns, axis=1)).sum(axis=1))

    shared = sorted(set.intersection(*(set(sample.controls) for sample in samples)))
    if not shared:
        return np.full(resamples + 1, np.nan)
    control = np.max([mean([sample.controls[name] for sample in samples]) for name in shared], axis=0)
    room = mean([sample.ceiling for sample in samples]) - control
    found: Array = np.full(resamples + 1, np.nan)
    np.divide(mean([sample.score for sample in samples]) - control, room, out=found, where=room > 0)
    return found


def worst_scores(attacks: Sequence[Sequence[Sample]], resamples: int = RESAMPLES) -> tuple[int, Array]:
    """The worst over attacks, taken anew in every resample.

    Args:
        attacks: Samples of each attack configuration, at least one.
        resamples: How many.

    Returns:
        Position of the attack that is worst on the data as they are (the first of equals), and the worst score
        [1 + resamples] as in `resampled_scores`. All NaN (and position 0) where any attack's own score is NaN: a
        worst over an incomplete set is not known.
    """
    seeds = sorted({sample.seed for samples in attacks for sample in samples})
    scores = np.stack([resampled_scores(samples, seeds, resamples) for samples in attacks])
    if not np.isfinite(scores[:, 0]).all():
        return 0, np.full(resamples + 1, np.nan)
    # An attack that ran on some seeds only has no score where none of them is drawn; the others speak there.
    return int(scores[:, 0].argmax()), np.fmax.reduce(scores, axis=0)


def interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of `draws[1:]`, widened where needed to hold the estimate `draws[0]`; NaN if that is NaN.

    Widening matters because a worst taken anew is biased upwards: its percentiles can lie above the estimate.
    """
    estimate = float(draws[0])
    resampled = draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(estimate) or not len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), estimate), max(float(high), estimate)


def differs(first: Array, second: Array, level: float = LEVEL) -> bool:
    """Whether the interval of the paired difference of two rows' draws leaves out 0."""
    low, high = interval(first - second, level)
    return not low <= 0.0 <= high


def mean_interval(values: Mapping[int, float], resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Mean over victim seeds with its bootstrap interval.

    Args:
        values: Victim seed -> value.
        resamples: How many.

    Returns:
        Mean, lower and upper end; NaN without values or where one is NaN.
    """
    if not values:
        return (float("nan"),) * 3
    seeds = sorted(values)
    ordered = np.array([values[seed] for seed in seeds], dtype=np.float64)
    draws = np.append(ordered.mean(), ordered[_seed_picks(tuple(seeds), resamples)].mean(axis=1))
    return float(draws[0]), *interval(draws)


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), which has a width even at 0 and at 1.

    Raises:
        ValueError: There is no trial, or there are more successes than trials.
    """
    _check_counts(successes, trials)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low, high = ((middle + sign * half) / (1 + z * z / trials) for sign in (-1, 1))
    # At the ends the terms cancel, but for their rounding.
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def exact_low(successes: int, trials: int, level: float = LEVEL) -> float:
    """Lower end of the one-sided exact interval of a proportion (Clopper and Pearson, 1934).

    Where a proportion is to contradict a bound, it must never do so more often than stated: Wilson's lower end is too
    high where few successes are expected.

    Raises:
        ValueError: There is no trial, or there are more successes than trials.
    """
    _check_counts(successes, trials)
    # Most tables claim nothing that needs it, and they are read more often than made.
    from scipy.special import betaincinv

    return float(betaincinv(successes, trials - successes + 1, 1 - level)) if successes else 0.0


def _check_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials")


def difference_low(first: tuple[int, int], second: tuple[int, int], level: float = LEVEL) -> float:
    """Lower end of the interval of the difference of two independent proportions, in [-1, 1].

    Newcombe (1998, "Interval estimation for the difference between independent proportions", Statistics in Medicine
    17, method 10): d - sqrt((p1 - l1)^2 + (u2 - p2)^2), with Wilson's ends l1 and u2.

    Args:
        first, second: Successes and trials.
        level: Of the two-sided interval.

    Raises:
        ValueError: As `wilson`.
    """
    (low, _), (_, high) = wilson(*first, level), wilson(*second, level)
    p1, p2 = first[0] / first[1], second[0] / second[1]
    return p1 - p2 - float(np.hypot(p1 - low, high - p2))


@lru_cache(maxsize=16)
def _image_weights(targets: str, n: int, resamples: int) -> Array:
    # [1 + resamples, n], rows sum to 1; the first weighs every image alike.
    counts = _stream("images", targets, n).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.concatenate([np.ones((1, n)), counts]) / n


@lru_cache(maxsize=64)
def _seed_picks(seeds: tuple[int, ...], resamples: int) -> NDArray[np.int64]:
    # [resamples, seeds]: positions drawn with replacement.
    return _stream("seeds", *seeds).integers(len(seeds), size=(resamples, len(seeds)))


def _cell_weights(samples: Sequence[Sample], seeds: Sequence[int], resamples: int) -> Array:
    # [1 + resamples, samples], rows sum to 1, or are NaN where no drawn seed has a sample.
    picks = _seed_picks(tuple(seeds), resamples)
    weights = np.zeros((resamples + 1, len(samples)))
    for position, seed in enumerate(seeds):
        cells = sorted((i for i, s in enumerate(samples) if s.seed == seed), key=lambda i: samples[i].attack_seed)
        if not cells:
            continue
        drawn = picks == position
        inner = _stream("attack seeds", seed, len(cells)).integers(len(cells), size=(*drawn.shape, len(cells)))
        weights[0, cells] = 1 / len(cells)
        for within, cell in enumerate(cells):
            weights[1:, cell] = ((inner == within).mean(axis=2) * drawn).sum(axis=1)
    total = weights.sum(axis=1, keepdims=True)
    shares: Array = np.full_like(weights, np.nan)
    np.divide(weights, total, out=shares, where=total > 0)
    return shares


def _stream(*name: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(name).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
