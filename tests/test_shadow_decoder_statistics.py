"""What of a client shows in the patches of what it sends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.decoding.patch_statistics import (
    FLOORS,
    MOST_ENTRIES,
    MOST_PATCHES,
    Observed,
    PatchStatistics,
    held_out_floor,
    patch_stride,
)
from attacks.shadow_decoder import ShadowDecoder
from benchmark.data import Dataset
from benchmark.planted import meet, planted_clients, planted_parameters
from benchmark.registry import reference
from benchmark.seeds import Rng, isolated
from benchmark.spec import Spec


def convolution(seed: int = 0) -> nn.Module:
    with isolated(Rng("convolution", seed)):
        return nn.Conv2d(1, 8, 3).requires_grad_(False)


@pytest.fixture(scope="module")
def sent(digits: Dataset) -> Tensor:
    return convolution()(digits.test.images[:10])


def test_what_was_sent_agrees_with_itself_at_every_floor(sent: Tensor) -> None:
    observed, same = Observed.of(sent, 10), PatchStatistics.of(sent)
    assert [float(observed.mismatch(same, done)) for done in (0.0, 0.5, 1.0)] == pytest.approx([0] * 3, abs=1e-2)


def test_a_filter_that_leaves_the_subspace_costs_more_the_lower_the_floor(digits: Dataset, sent: Tensor) -> None:
    wrong = convolution()
    wrong.weight += 0.03 * Rng("wrong").normal(tuple(wrong.weight.shape), wrong.weight.device)
    other, observed = PatchStatistics.of(wrong(digits.test.images[:10])), Observed.of(sent, 10)
    high, low = (float(observed.mismatch(other, done)) for done in (0.0, 1.0))
    assert low > 10 * high


def test_a_subspace_that_every_sample_keeps_to_has_the_lowest_floor(sent: Tensor) -> None:
    assert held_out_floor(sent, 10) == FLOORS[-1]


def test_a_subspace_that_few_patches_happen_to_lie_in_does_not(sent: Tensor) -> None:
    few = Rng("few").normal((10, 120), sent.device)
    assert held_out_floor(few, 10) >= 1e-2


def test_views_of_one_sample_do_not_vouch_for_each_other(sent: Tensor) -> None:
    few = Rng("few").normal((10, 120), sent.device)
    assert held_out_floor(few.repeat(3, 1), 10) == held_out_floor(few, 10)


def test_a_single_sample_says_nothing_of_others(sent: Tensor) -> None:
    assert held_out_floor(sent[:1], 1) == FLOORS[0]


@pytest.mark.parametrize("shape", [(10, 8, 12, 12), (10, 50), (10, MOST_ENTRIES + 1), (10, MOST_ENTRIES + 1, 2, 2)])
def test_a_client_that_always_sends_the_same_is_compared_in_finite_numbers(shape: tuple[int, ...]) -> None:
    same = torch.zeros(shape, device="cpu")
    moving = Rng("moving").normal(shape, same.device)
    found = [
        Observed.of(one, 10).mismatch(PatchStatistics.of(other), 1.0) for one in (same, moving) for other in (same,)
    ]
    assert all(bool(torch.isfinite(value)) for value in found)


def test_an_offset_of_one_channel_shows_in_its_values(sent: Tensor) -> None:
    moved = sent.clone()
    moved[:, 3] += 1
    difference = PatchStatistics.of(moved).quantiles - PatchStatistics.of(sent).quantiles
    assert difference.mean(dim=0).tolist() == pytest.approx([0, 0, 0, 1, 0, 0, 0, 0], abs=1e-5)


def test_as_many_patches_are_looked_at_as_are_meant(sent: Tensor) -> None:
    stride = patch_stride(sent.repeat(20, 1, 1, 1))
    assert 200 * (-(-24 // stride)) ** 2 <= MOST_PATCHES < 200 * (-(-24 // (stride - 1))) ** 2


@pytest.mark.slow
def test_one_unknown_convolution_is_found_and_undone() -> None:
    clients = [client for client in planted_clients(ShadowDecoder()) if "unknown convolution, grey" in client.title]
    ref = reference("attack", Spec("shadow_decoder", planted_parameters(ShadowDecoder, {})))
    assert [score.score for client in clients for score in meet(ref, client) if (score.score or 0) < 0.97] == []
