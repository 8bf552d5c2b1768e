from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.accounting import gaussian_epsilon
from benchmark.data import Dataset
from benchmark.protection import Protection
from benchmark.protocol import Training, batches
from benchmark.seeds import Rng
from defenses.base import Defense
from defenses.gradient_clip_noise import GradientClipNoise
from tests.observed_training import observe


def protected(g: Tensor, **parameters: float) -> Tensor:
    defense = GradientClipNoise.configured(parameters)
    return Protection([defense], Rng("clip")).gradients(g, torch.zeros(len(g), dtype=torch.int64))


def trained(defense: GradientClipNoise, training: Training, *others: Defense) -> GradientClipNoise:
    """The defense after every batch of a training went through it."""
    protection = Protection([defense, *others], Rng("clip"))
    training = protection.privatise(training)
    order = Rng("batches")
    for _ in range(training.epochs):
        for ids in batches(training, order):
            protection.gradients(torch.ones(len(ids), 4), torch.zeros(len(ids), dtype=torch.int64))
    return defense


def training(n_records: int = 100, batch_size: int = 30, epochs: int = 4) -> Training:
    nothing = nn.Identity()
    return Training(nothing, nothing, nothing, {}, n_records, batch_size, epochs, Rng("training"))


class PoissonSampling(Defense):
    name = "poisson_sampling"
    side = "weights"

    def privatise(self, training: Training) -> Training:
        training.sampling = "poisson"
        return training


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 100))
def test_without_noise_and_under_a_wide_clip_it_is_the_identity(seed: int) -> None:
    g = Rng("g", seed).normal((5, 2, 3))

    assert torch.equal(protected(g, clip_norm=1e6, sigma=0), g)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-6, 1e3), st.integers(0, 100))
def test_no_row_is_longer_than_the_clip_norm_and_none_is_turned(clip_norm: float, seed: int) -> None:
    g = Rng("g", seed).normal((5, 2, 3))

    clipped = protected(g, clip_norm=clip_norm, sigma=0)

    assert (clipped.flatten(1).norm(dim=1) <= clip_norm * (1 + 1e-5)).all()
    torch.testing.assert_close(nn.functional.cosine_similarity(clipped.flatten(1), g.flatten(1)), torch.ones(5))


def test_short_rows_are_not_stretched_and_zeros_stay() -> None:
    g = torch.tensor([[0.3, 0.4], [0.0, 0.0]])

    assert torch.equal(protected(g, clip_norm=1.0, sigma=0), g)


def test_the_noise_is_sigma_times_the_clip_norm_however_long_the_rows() -> None:
    g = torch.zeros(1000, 50)

    noise = protected(g, clip_norm=0.5, sigma=3)

    assert noise.std() == pytest.approx(1.5, rel=0.02)


def test_the_claim_composes_over_the_epochs() -> None:
    [claim] = trained(GradientClipNoise(sigma=2, delta=1e-6), training(epochs=9)).privacy()

    assert claim.releases == 9
    # Nine releases are one with a third of the noise, at sensitivity twice the clip norm.
    assert claim.epsilon == pytest.approx(gaussian_epsilon(2 / 3, 2.0, 1e-6))
    assert (claim.view, claim.delta, claim.adjacency) == ("labels", 1e-6, "replace-one")


def test_the_clip_norm_does_not_change_the_claim() -> None:
    first, second = (trained(GradientClipNoise(clip_norm=c), training()).privacy() for c in (1e-4, 10))

    assert first == second


def test_under_poisson_batches_every_step_may_have_released_a_record() -> None:
    defense = trained(GradientClipNoise(), training(), PoissonSampling())

    [claim] = defense.privacy()

    assert claim.releases == 12


def test_the_claim_survives_with_the_state_alone() -> None:
    defense = trained(GradientClipNoise(), training())
    loaded = GradientClipNoise()
    loaded.state.update(defense.state)

    assert loaded.privacy() == defense.privacy()


def test_nothing_is_claimed_without_noise_or_where_no_gradient_was_sent() -> None:
    vanilla = GradientClipNoise()
    vanilla.privatise(training())

    assert trained(GradientClipNoise(sigma=0), training()).privacy() == ()
    assert vanilla.privacy() == ()
    assert GradientClipNoise().privacy() == ()


def test_a_real_training_states_its_epsilon_and_still_learns(digits: Dataset) -> None:
    defense = GradientClipNoise(sigma=0.1)

    accuracy = observe(digits, defenses=[defense], epochs=3).accuracy

    [claim] = defense.privacy()
    assert claim.releases == 3
    assert claim.epsilon == pytest.approx(gaussian_epsilon(0.1, 2.0, 1e-5, 3))
    assert accuracy > 0.6


@pytest.mark.parametrize("shape", [(4, 84), (4, 8, 3, 3)])
def test_shape_device_and_type_stay_under_another_default_device(shape: tuple[int, ...]) -> None:
    g = Rng("g").normal(shape)
    y = torch.zeros(4, dtype=torch.int64)
    defense = GradientClipNoise()

    with torch.device("meta"):
        defense.privatise(training())
        result = Protection([defense], Rng("clip")).gradients(g, y)

    assert (result.shape, result.dtype, result.device) == (g.shape, g.dtype, g.device)


def test_a_delta_of_one_over_the_records_or_more_gives_no_number() -> None:
    [claim] = trained(GradientClipNoise(sigma=2, delta=0.9), training(epochs=9)).privacy()
    assert claim.epsilon is None
    assert "one over the number of records" in str(claim.why_invalid)
