from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.accounting import gaussian_epsilon
from benchmark.data import Dataset
from benchmark.seeds import Rng
from defenses.clipped_gaussian_noise import ClippedGaussianNoise
from defenses.dp_sgd import DPSGD
from tests.tiny_training import digits_split, run, started


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**20), scale=st.floats(-1e3, 1e3))
def test_without_noise_a_wide_clip_is_the_identity(seed: int, scale: float) -> None:
    z = scale * Rng("z", seed).normal((3, 2, 4, 4))
    assert torch.equal(ClippedGaussianNoise(sigma=0.0, clip=1e9).protect_activations(z, Rng("n"), "inference"), z)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**20), scale=st.floats(1e-3, 1e3), clip=st.floats(1e-2, 1e2))
def test_no_sample_leaves_with_more_than_the_clip(seed: int, scale: float, clip: float) -> None:
    z = scale * Rng("z", seed).normal((5, 2, 4, 4))
    sent = ClippedGaussianNoise(sigma=0.0, clip=clip).protect_activations(z, Rng("n"), "inference")
    assert float(sent.flatten(1).norm(dim=1).max()) <= clip * (1 + 1e-5)


def test_a_sample_within_the_clip_is_not_scaled_beside_one_beyond_it() -> None:
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    sent = ClippedGaussianNoise(sigma=0.0, clip=1.0).protect_activations(z, Rng("n"), "inference")
    torch.testing.assert_close(sent, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_the_noise_has_standard_deviation_sigma() -> None:
    sent = ClippedGaussianNoise(sigma=3.0, clip=1.0).protect_activations(torch.zeros(2, 100_000), Rng("n"), "inference")
    assert sent.std().item() == pytest.approx(3.0, rel=0.02)


def test_the_gradient_of_a_sample_that_is_all_zero_is_finite() -> None:
    z = torch.zeros(2, 3, requires_grad=True)
    ClippedGaussianNoise().protect_activations(z, Rng("n"), "training").sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.ones(2, 3))


@pytest.mark.parametrize(("epochs", "queries", "releases"), [(0, 1, 1), (2, 1, 3), (2, 10, 12)])
def test_the_claim_counts_epochs_and_queries(digits: Dataset, epochs: int, queries: int, releases: int) -> None:
    defense = ClippedGaussianNoise(clip=2.0, sigma=4.0, queries=queries)
    run(digits, *started(digits, digits_split(), defense, epochs=epochs))
    (claim,) = defense.privacy()
    assert claim.releases == releases
    assert claim.epsilon == gaussian_epsilon(4.0, 4.0, 1e-5, releases)
    assert (claim.view, claim.adjacency, claim.accountant) == ("activations", "replace-one", "analytic gaussian")


@pytest.mark.parametrize("private_first", [True, False])
def test_poisson_batches_may_release_a_record_every_time(digits: Dataset, private_first: bool) -> None:
    defense = ClippedGaussianNoise()
    defenses = [DPSGD(), defense] if private_first else [defense, DPSGD()]
    run(digits, *started(digits, digits_split(), *defenses, n=64, batch_size=16, epochs=2))
    assert defense.privacy()[0].releases == 8 + 1


def test_the_claim_for_one_release_is_the_golden_epsilon(digits: Dataset) -> None:
    defense = ClippedGaussianNoise(clip=1.0, sigma=2.0)
    started(digits, digits_split(), defense)
    assert defense.privacy()[0].epsilon == pytest.approx(4.38, rel=3e-3)


def test_without_noise_epsilon_is_infinite(digits: Dataset) -> None:
    defense = ClippedGaussianNoise(sigma=0.0)
    started(digits, digits_split(), defense)
    assert defense.privacy()[0].epsilon == math.inf


def test_a_delta_that_lets_a_record_be_sent_in_the_clear_makes_the_claim_invalid(digits: Dataset) -> None:
    defense = ClippedGaussianNoise(delta=0.5)
    started(digits, digits_split(), defense)
    (claim,) = defense.privacy()
    assert claim.epsilon is None
    assert "delta=0.5 is not below 1/64" in str(claim.why_invalid)


def test_the_claim_is_restored_with_the_state(digits: Dataset) -> None:
    trained, restored = ClippedGaussianNoise(), ClippedGaussianNoise()
    run(digits, *started(digits, digits_split(), trained))
    restored.state.update(trained.state)
    assert restored.privacy() == trained.privacy()
    assert restored.reached == trained.reached


def test_the_ratio_of_noise_to_the_clipped_data_is_reported(digits: Dataset) -> None:
    defense = ClippedGaussianNoise(clip=1e-3, sigma=1.0)
    started(digits, digits_split(), defense)
    # Every sample is scaled to norm C, so its 1152 units have RMS C / sqrt(1152).
    assert defense.reached["noise_to_rms"] == pytest.approx(1e3 * math.sqrt(1152), rel=1e-3)


def test_an_attack_that_replays_the_training_hook_moves_nothing(digits: Dataset) -> None:
    trained, restored = ClippedGaussianNoise(), ClippedGaussianNoise()
    run(digits, *started(digits, digits_split(), trained))
    restored.state.update(trained.state)
    restored.protect_activations(torch.ones(4, 8), Rng("attack"), "training")
    assert all(torch.equal(restored.state[key], value) for key, value in trained.state.items())


def test_nothing_is_made_on_the_default_device(digits: Dataset) -> None:
    defense = ClippedGaussianNoise()
    with torch.device("meta"):
        started(digits, digits_split(), defense)
        sent = defense.protect_activations(digits.victim.images[:4], Rng("n"), "training")
    assert sent.device.type == "cpu"


def test_nothing_is_claimed_before_preparation() -> None:
    assert list(ClippedGaussianNoise().privacy()) == []
