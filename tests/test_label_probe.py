from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from attacks.labels.probe import flip_rates, turning
from benchmark.protection import Protection
from benchmark.seeds import Rng
from defenses.base import Defense, Side
from defenses.isotropic_gradient_noise import IsotropicGradientNoise
from defenses.label_randomised_response import LabelRandomisedResponse
from defenses.max_norm import MaxNorm

CPU = torch.device("cpu")
LABELS = torch.arange(10)
# As far apart in size as gradients of fitted and misfit samples are.
GRADIENTS = Rng("gradients").normal((5, 10, 84)) * torch.logspace(0, -3, 10)[:, None]


class Permuted(Defense):
    """Exchanges coordinates by a fixed key. Own work."""

    name: ClassVar[str] = "permuted"
    side: ClassVar[Side] = "labels"

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        return g[:, Rng("key").permutation(g.shape[1])]


class Opposite(Defense):
    """Turns every gradient round, and every label into the next. Own work."""

    name: ClassVar[str] = "opposite"
    side: ClassVar[Side] = "labels"

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        return -g

    def protect_labels(self, y: Tensor, n_classes: int, rng: Rng) -> Tensor:
        return (y + 1) % n_classes


class TurnedByKey(Defense):
    """Turns rows round by what it looks up for their numbers, or for their place in the batch. Own work."""

    name: ClassVar[str] = "turned_by_key"
    side: ClassVar[Side] = "labels"

    by: str = Field("numbers", description="what the key is looked up by")

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        numbers = g.abs().sum(dim=1).frexp().mantissa.mul(2**20).long()
        place = torch.arange(len(g), device=g.device)
        odd = (numbers if self.by == "numbers" else place) % 2
        return g * (2 * odd - 1)[:, None]


def of(*defenses: Defense) -> Protection:
    return Protection(defenses, Rng("attacker"))


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_flip_rates_are_those_of_the_mechanism(epsilon: float) -> None:
    found = flip_rates(of(LabelRandomisedResponse(epsilon=epsilon)), 10, Rng("order"), CPU)

    expected = torch.full((10, 10), 1 / (math.exp(epsilon) + 9), dtype=torch.float64)
    expected.fill_diagonal_(math.exp(epsilon) / (math.exp(epsilon) + 9))
    # Five standard deviations of a share over 4000 draws.
    torch.testing.assert_close(found, expected, atol=5 * 0.5 / math.sqrt(4000), rtol=0)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(10, dtype=torch.float64))


def test_labels_that_are_kept_or_exchanged_are_found_so() -> None:
    assert torch.equal(flip_rates(of(), 10, Rng("order"), CPU), torch.eye(10, dtype=torch.float64))
    exchanged = flip_rates(of(Opposite()), 10, Rng("order"), CPU)
    assert torch.equal(exchanged, torch.eye(10, dtype=torch.float64).roll(1, dims=1))


def test_max_norm_leaves_a_line() -> None:
    found = turning(of(MaxNorm()), GRADIENTS, LABELS)

    assert found.line_only
    assert not found.aligned


@pytest.mark.parametrize("by", ["numbers", "place"])
@pytest.mark.parametrize("epochs", [1, 5])
def test_what_turns_gradients_round_by_a_key_leaves_a_line_as_well(by: str, epochs: int) -> None:
    assert turning(of(TurnedByKey(by=by)), GRADIENTS[:epochs], LABELS).line_only


@pytest.mark.parametrize("c", [1.0, 5.0, 25.0, 100.0])
def test_noise_turns_nothing_round(c: float) -> None:
    assert not turning(of(IsotropicGradientNoise(c=c)), GRADIENTS, LABELS).line_only


def test_without_a_defense_gradients_are_as_they_were() -> None:
    found = turning(of(), GRADIENTS, LABELS)

    assert found.aligned
    assert found.along == pytest.approx(1)


def test_gradients_that_are_all_turned_round_keep_more_than_their_line() -> None:
    found = turning(of(Opposite()), GRADIENTS, LABELS)

    assert found.aligned
    assert found.along == pytest.approx(-1)


def test_exchanged_coordinates_are_not_those_of_the_body() -> None:
    assert not turning(of(Permuted()), GRADIENTS, LABELS).aligned


def test_gradients_that_are_all_zero_tell_nothing() -> None:
    found = turning(of(), torch.zeros(2, 10, 84), LABELS)

    assert not found.line_only
    assert not found.aligned
