from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.protection import Protection
from benchmark.seeds import Rng
from defenses.isotropic_gradient_noise import IsotropicGradientNoise


def protected(g: Tensor, c: float) -> Tensor:
    return Protection([IsotropicGradientNoise(c=c)], Rng("isotropic")).gradients(g, torch.zeros(len(g)).long())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 100))
def test_without_strength_it_is_the_identity(seed: int) -> None:
    g = Rng("g", seed).normal((5, 2, 3))

    assert torch.equal(protected(g, c=0), g)


@pytest.mark.parametrize("c", [1.0, 25.0])
def test_the_noise_of_every_row_has_c_times_the_largest_squared_norm(c: float) -> None:
    g = torch.zeros(1000, 84)
    g[7, 3] = 0.02

    noise = protected(g, c) - g

    squares = noise.square().sum(dim=1)
    assert squares.mean() == pytest.approx(c * 0.02**2, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.02 * (c / 84) ** 0.5 * 5 / (1000 * 84) ** 0.5)


def test_a_batch_of_zeros_stays_zero() -> None:
    assert torch.equal(protected(torch.zeros(3, 4), c=25), torch.zeros(3, 4))


@pytest.mark.parametrize("shape", [(4, 84), (4, 8, 3, 3)])
def test_shape_device_and_type_stay_under_another_default_device(shape: tuple[int, ...]) -> None:
    g, y = Rng("g").normal(shape), torch.zeros(4, dtype=torch.int64)

    with torch.device("meta"):
        result = Protection([IsotropicGradientNoise()], Rng("isotropic")).gradients(g, y)

    assert (result.shape, result.dtype, result.device) == (g.shape, g.dtype, g.device)


def test_it_claims_no_epsilon_and_says_that_it_couples_samples() -> None:
    assert IsotropicGradientNoise().privacy() == ()
    assert IsotropicGradientNoise().couples_samples
