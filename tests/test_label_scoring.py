from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor

from benchmark import registry
from benchmark.cell import Cell
from benchmark.data import Dataset, Part
from benchmark.label_scoring import score_labels, without_gradient
from benchmark.metrics.labels import advantage
from benchmark.models import Split
from benchmark.observe import Observation, observe
from benchmark.seeds import Rng
from benchmark.victim import Victim, obtain_victim
from benchmark.view import Phase
from defenses.base import Defense, Side
from tests.specs import WATCH, cell_of, victim_spec


class MarksItsLabels(Defense):
    """Writes the label of every training image into it, so that the server knows it without any gradient. Own work."""

    name: ClassVar[str] = "marks_its_labels"
    side: ClassVar[Side] = "labels"

    _own: Part | None = PrivateAttr(default=None)

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        self._own = data
        return split

    def protect_inputs(self, x: Tensor, rng: Rng, phase: Phase) -> Tensor:
        assert self._own is not None
        labels = self._own.labels[torch.cdist(x.flatten(1), self._own.images.flatten(1)).argmin(dim=1)]
        rows = torch.arange(x.shape[2], device=x.device) // 2
        return 0.1 * x + (rows == labels[:, None] + 2).to(x)[:, None, :, None]


class SendsNothing(Defense):
    """Sends zeros, so that the server computes nothing that depends on a sample. Own work."""

    name: ClassVar[str] = "sends_nothing"
    side: ClassVar[Side] = "labels"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        return z * 0


Attacked = Callable[..., tuple[Observation, Victim, Victim]]


@pytest.fixture(scope="module")
def attacked(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    cache: Path = tmp_path_factory.mktemp("victims")

    def of(*defenses: Defense) -> tuple[Observation, Victim, Victim]:
        spec = victim_spec(digits, *defenses, watch=WATCH, epochs=2, topology="u_shaped", tail="fc3")
        cell: Cell = cell_of(spec, "gradient_similarity", phase="training", views=2, targets=WATCH.rule)
        victim, plain = (obtain_victim(s, digits, cache, torch.device("cpu")) for s in (spec, spec.undefended()))
        return observe(cell, victim, digits, registry.load_attack(cell.attack)), victim, plain

    return of


def scored(digits: Dataset, attacked: tuple[Observation, Victim, Victim]) -> tuple[float, dict[str, float]]:
    """The control, and the scalars, of an attack that finds every label."""
    observation, victim, plain = attacked
    truth = observation.truth.labels
    _, controls, scalars = score_labels(truth, truth, 10, without_gradient(observation, victim, plain, digits))
    return controls["known_labels_no_gradient"]["accuracy"][0], scalars


def test_a_defense_cannot_raise_its_own_control(digits: Dataset, attacked: Attacked) -> None:
    control, scalars = scored(digits, attacked(MarksItsLabels()))
    undefended, _ = scored(digits, attacked())

    assert scalars["label_accuracy_no_gradient"] > scalars["label_accuracy_no_gradient_undefended"] + 0.1
    assert control == scalars["label_accuracy_no_gradient_undefended"]
    assert advantage(1.0, control) == 1.0
    assert control <= undefended + 0.25


def test_a_defense_is_not_credited_with_features_its_server_never_gets(digits: Dataset, attacked: Attacked) -> None:
    control, scalars = scored(digits, attacked(SendsNothing()))

    assert scalars["label_accuracy_no_gradient_undefended"] > 0.3
    assert control == scalars["label_accuracy_no_gradient"] == pytest.approx(0.1)


def test_an_undefended_victim_stands_for_itself(digits: Dataset, attacked: Attacked) -> None:
    observation, victim, plain = attacked()

    alone = without_gradient(observation, victim, None, digits)

    assert alone == without_gradient(observation, victim, plain, digits)


def test_a_defended_victim_without_the_undefended_one_is_refused(digits: Dataset, attacked: Attacked) -> None:
    observation, victim, _ = attacked(SendsNothing())

    with pytest.raises(ValueError, match="give undefended="):
        without_gradient(observation, victim, None, digits)
