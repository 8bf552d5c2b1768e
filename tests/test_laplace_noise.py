from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from benchmark.seeds import Rng
from defenses.laplace_noise import LaplaceNoise


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**20), key=st.sampled_from(["sigma", "relative"]))
def test_noise_of_zero_strength_is_the_identity(seed: int, key: str) -> None:
    z = Rng("z", seed).normal((3, 2, 4, 4))
    assert torch.equal(LaplaceNoise.configured({key: 0.0}).protect_activations(z, Rng("n"), "training"), z)


def test_noise_is_laplace_of_scale_sigma_over_root_two() -> None:
    defense, z = LaplaceNoise(sigma=3.0), torch.zeros(20_000)
    noise = defense.protect_activations(z, Rng("n"), "training")
    assert kstest(noise.numpy(), "laplace", args=(0, 3 / 2**0.5)).pvalue > 0.01
    assert kstest(noise.numpy(), "norm", args=(0, 3.0)).pvalue < 1e-6


def test_sigma_is_the_standard_deviation() -> None:
    noise = LaplaceNoise(sigma=3.0).protect_activations(torch.zeros(200_000), Rng("n"), "training")
    assert noise.std().item() == pytest.approx(3.0, rel=0.02)


def test_relative_noise_scales_with_the_running_rms() -> None:
    z = torch.full((200_000,), 4.0)
    noise = LaplaceNoise(relative=0.5).protect_activations(z, Rng("n"), "training") - z
    assert noise.std().item() == pytest.approx(2.0, rel=0.02)


def test_nothing_is_made_on_the_default_device() -> None:
    z = Rng("z").normal((4, 8))
    with torch.device("meta"):
        assert LaplaceNoise().protect_activations(z, Rng("n"), "training").device.type == "cpu"
