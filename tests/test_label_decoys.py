"""Defenses of the label side that hide nothing, in real training: the worst stance must see through each."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from attacks.gradient_similarity import GradientSimilarity
from benchmark.data import Dataset
from benchmark.metrics.labels import advantage
from benchmark.seeds import Rng
from defenses.base import Defense, Side
from tests.observed_training import observe

STANCES = ("oblivious", "aware", "adaptive")
# Batches an epoch in `observe` below.
STEPS = 12


class Decoy(Defense):
    """Changes cut gradients in one of many ways that a server can undo. Own work."""

    name: ClassVar[str] = "decoy"
    side: ClassVar[Side] = "labels"

    how: str = Field("scaled", description="what it does")
    _step: int = PrivateAttr(0)

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        epoch, self._step = self._step // STEPS, self._step + 1
        key = Rng("key", epoch if self.how.endswith("every epoch") else 0)
        if self.how.startswith("rotated"):
            return g @ torch.linalg.qr(key.normal((g.shape[1], g.shape[1])))[0]
        if self.how.startswith("permuted"):
            return g[:, key.permutation(g.shape[1])]
        if self.how.startswith("scaled"):
            return g * 1e-6 * (1 + 9 * key.uniform((1,)))
        if self.how == "shifted":
            return g + key.normal((1, g.shape[1]))
        if self.how == "noise in the first epoch":
            return g + 10 * (epoch == 0) * rng.normal_like(g) * g.abs().mean()
        if self.how == "noise in all epochs but the last":
            return g + 10 * (epoch < 2) * rng.normal_like(g) * g.abs().mean()
        if self.how == "one length":
            return g / torch.linalg.vector_norm(g, dim=1, keepdim=True).clamp(min=1e-30)
        if self.how == "lengths at random":
            return g * (3 * rng.normal((len(g), 1))).exp()
        if self.how == "signs at random":
            return g * (rng.uniform((len(g), 1)) < 0.5).to(g).mul(2).sub(1)
        if self.how == "signs by their numbers":
            numbers = g.abs().sum(dim=1).frexp().mantissa.mul(2**20).long()
            return g * (2 * (numbers % 2) - 1)[:, None]
        if self.how == "signs of entries alone":
            return g.sign()
        return -g


@pytest.fixture(scope="module")
def undefended(digits: Dataset) -> float:
    return observe(digits, records=600).accuracy_of(GradientSimilarity())


IN_SHORT = ("scaled", "permuted anew every epoch", "shifted", "noise in the first epoch", "turned round")
AT_LENGTH = (
    "scaled anew every epoch",
    "rotated",
    "noise in all epochs but the last",
    "one length",
    "lengths at random",
    "signs at random",
    "signs by their numbers",
    "signs of entries alone",
)


@pytest.mark.parametrize("how", [*IN_SHORT, *(pytest.param(how, marks=pytest.mark.slow) for how in AT_LENGTH)])
def test_a_defense_that_hides_nothing_does_not_look_safe(digits: Dataset, undefended: float, how: str) -> None:
    seen = observe(digits, records=600, defenses=[Decoy(how=how)])

    worst = max(seen.accuracy_of(GradientSimilarity.configured({"stance": stance})) for stance in STANCES)

    assert advantage(worst, 0.1) >= advantage(undefended, 0.1) - 0.1
