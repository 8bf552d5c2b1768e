from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from benchmark.data import Dataset
from benchmark.seeds import Rng
from defenses.laplace_noise import LaplaceNoise
from tests.tiny_training import digits_split, started


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**20), key=st.sampled_from(["sigma", "relative"]))
def test_noise_of_zero_strength_is_the_identity(seed: int, key: str) -> None:
    defense = LaplaceNoise.configured({key: 0.0})
    defense.state["mean_square"] = torch.tensor(4.0)
    z = Rng("z", seed).normal((3, 2, 4, 4))
    assert torch.equal(defense.protect_activations(z, Rng("n"), "training"), z)


def noise_of(n: int, rms: float = 1.0, **parameters: float) -> Tensor:
    """Noise on n units."""
    defense = LaplaceNoise.configured(parameters)
    defense.state["mean_square"] = torch.tensor(rms**2)
    return defense.protect_activations(torch.zeros(1, n), Rng("n"), "inference").flatten()


def test_noise_is_laplace_of_scale_sigma_over_root_two() -> None:
    noise = noise_of(20_000, sigma=3.0)
    assert kstest(noise.numpy(), "laplace", args=(0, 3 / 2**0.5)).pvalue > 0.01
    assert kstest(noise.numpy(), "norm", args=(0, 3.0)).pvalue < 1e-6


def test_sigma_is_the_standard_deviation() -> None:
    assert noise_of(200_000, sigma=3.0).std().item() == pytest.approx(3.0, rel=0.02)


def test_relative_noise_scales_with_the_running_rms() -> None:
    assert noise_of(200_000, rms=4.0, relative=0.5).std().item() == pytest.approx(2.0, rel=0.02)


def test_nothing_is_made_on_the_default_device(digits: Dataset) -> None:
    defense = LaplaceNoise()
    with torch.device("meta"):
        started(digits, digits_split(), defense)
        sent = defense.protect_activations(digits.victim.images[:4], Rng("n"), "training")
    assert sent.device.type == "cpu"
