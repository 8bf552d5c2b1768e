"""What differential privacy a mechanism gives: epsilon of Gaussian releases and of DP-SGD."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcx, log_ndtr

from benchmark.errors import UserError

Accountant = Literal["prv", "rdp"]


def gaussian_epsilon(sigma: float, sensitivity: float, delta: float, releases: int = 1) -> float:
    """Smallest epsilon for which releasing a vector with Gaussian noise is (epsilon, delta)-private, exactly.

    Balle and Wang (2018, arXiv 1805.06530), theorem 8: noise of standard deviation s on a function of L2
    sensitivity S is (epsilon, delta)-private exactly where Phi(S/2s - epsilon s/S) - e^epsilon Phi(-S/2s -
    epsilon s/S) <= delta. Any number of releases, chosen adaptively or not, composes to one of noise
    s / sqrt(releases) (Dong, Roth and Su, 2019, arXiv 1905.02383). The familiar
    s = sqrt(2 ln(1.25/delta)) S/epsilon holds for epsilon < 1 alone and is not used.

    Args:
        sigma: Standard deviation of the noise on each coordinate, at least 0.
        sensitivity: Largest L2 distance between the vectors of two neighbours, at least 0; twice the clipping
            norm where one record is replaced by another.
        delta: Failure probability, in [0, 1).
        releases: How often the same unit is released with fresh noise, at least 0.

    Returns:
        epsilon, at least 0; infinity without noise, and for delta 0.

    Raises:
        UserError: An argument is out of its range.
    """
    _at_least_zero("sigma", sigma)
    _at_least_zero("sensitivity", sensitivity)
    _at_least_zero("releases", releases)
    _probability("delta", delta)
    if sensitivity == 0 or releases == 0:
        return 0.0
    if sigma == 0 or delta == 0:
        return math.inf
    mu = sensitivity * math.sqrt(releases) / sigma
    if mu == 0 or math.erf(mu / math.sqrt(8)) <= delta:
        return 0.0
    # Here Phi(S/2s - epsilon s/S) alone is below delta: Phi(-t) <= exp(-t^2/2) / 2 for t >= 0.
    above = mu * mu / 2 + mu * math.sqrt(-2 * math.log(delta))
    if not math.isfinite(above):
        return math.inf
    return float(brentq(lambda epsilon: _log_delta(epsilon, mu) - math.log(delta), 0.0, above))


def _log_delta(epsilon: float, mu: float) -> float:
    # e^epsilon Phi(b) = e^(-a^2/2) erfcx(-b/sqrt 2)/2 because b^2 - a^2 = 2 epsilon: nothing overflows,
    # however large epsilon.
    a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    first = float(log_ndtr(a))
    second = math.log(float(erfcx(-b / math.sqrt(2))) / 2) - a * a / 2
    # The first term is the larger; where rounding says otherwise their difference is nothing.
    return first + math.log(-math.expm1(second - first)) if second < first else -math.inf


@lru_cache(maxsize=256)
def dp_sgd_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: Accountant = "prv"
) -> float:
    """Epsilon of the weights DP-SGD releases, for adding or removing one record, by an Opacus accountant.

    Holds for Poisson batches alone: every record joins every batch independently with probability
    `sample_rate`. Where m parts of a network are clipped one by one and noised on the same batches, a step is
    one Gaussian release of whitened sensitivity sqrt(m): account at `noise_multiplier / sqrt(m)`, not at m
    times the steps.

    Args:
        noise_multiplier: Standard deviation of the noise over the clipping norm, at least 0.
        sample_rate: In [0, 1].
        steps: Optimiser steps taken, empty batches counted, at least 0.
        delta: Failure probability, in [0, 1).
        accountant: `prv`: numerical composition (Gopi, Lee and Wutschitz, 2021, arXiv 2106.02848), an upper
            bound within 0.01 or a thousandth; beyond what it can represent (some hundreds) the Renyi bound.
            `rdp`: Renyi (Mironov, Talwar and Zhang, 2019, arXiv 1908.10530), looser.

    Returns:
        epsilon, at least 0; infinity without noise.

    Raises:
        UserError: An argument is out of its range.
    """
    _at_least_zero("noise_multiplier", noise_multiplier)
    _at_least_zero("steps", steps)
    if not 0 <= sample_rate <= 1:
        raise UserError(f"sample_rate={sample_rate} is no probability; give a number from 0 to 1")
    _probability("delta", delta)
    if steps == 0 or sample_rate == 0:
        return 0.0
    if noise_multiplier == 0 or delta == 0:
        return math.inf
    if sample_rate == 1:
        # Whole batches: the composition is exactly Gaussian, and Opacus' prv would take log 0.
        return gaussian_epsilon(noise_multiplier, 1.0, delta, steps)

    history = [(noise_multiplier, sample_rate, steps)]
    renyi = _by_opacus("rdp", history, delta)
    if accountant == "rdp":
        return renyi
    try:
        # Its memory grows with epsilon over the error allowed, so the error grows with epsilon.
        return _by_opacus("prv", history, delta, eps_error=max(0.01, renyi / 1000))
    except FloatingPointError:
        # Opacus' prv takes exp of the privacy loss: past 709 that overflows, and its answer is infinite, or
        # far too small.
        return renyi


def _by_opacus(
    accountant: Accountant, history: list[tuple[float, float, int]], delta: float, **options: float
) -> float:
    from opacus.accountants import create_accountant

    mechanism = create_accountant(accountant)
    mechanism.history = history
    with np.errstate(over="raise"), warnings.catch_warnings():
        # Opacus says where its fixed list of Renyi orders ends; the bound it gives is valid all the same.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        return max(0.0, float(mechanism.get_epsilon(delta, **options)))


def _at_least_zero(name: str, value: float) -> None:
    if not value >= 0:
        raise UserError(f"{name}={value} is out of range; give a number of at least 0")


def _probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name}={value} is out of range; give a number of at least 0 and below 1")
