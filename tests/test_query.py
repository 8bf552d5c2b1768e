from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attacks.inverse_decoder import InverseDecoder
from benchmark.cell import TargetRule
from benchmark.data import Dataset
from benchmark.observe import Observation, observe
from benchmark.victim import Victim, obtain_victim
from tests.specs import WATCH, cell_of, victim_spec

CPU = torch.device("cpu")
Observed = Callable[..., tuple[Observation, Victim]]


@pytest.fixture(scope="module")
def observed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    cache: Path = tmp_path_factory.mktemp("victims")

    def build(defense: str, phase: str) -> tuple[Observation, Victim]:
        spec = victim_spec(digits, defense, watch=WATCH)
        victim = obtain_victim(spec, digits, cache, CPU)
        attack = InverseDecoder()
        cell = cell_of(spec, "inverse_decoder", phase=phase, targets=TargetRule())
        return observe(cell, victim, digits, attack), victim

    return build


@pytest.mark.parametrize("acts_in", ["training", "inference"])
@pytest.mark.parametrize("phase", ["training", "inference"])
def test_a_query_is_answered_as_in_the_phase_of_the_view(
    phase: str, acts_in: str, observed: Observed, digits: Dataset
) -> None:
    seen, _ = observed(f"gaussian_noise:phases={acts_in}", phase)
    x = digits.auxiliary.images[:5]
    noisy = not torch.equal(seen.view.query(x), seen.view.query(x))
    assert noisy == (phase == acts_in)


def test_a_query_moves_nothing_that_the_victim_learned(observed: Observed, digits: Dataset) -> None:
    _, victim = observed("gaussian_noise", "training")
    # A training hook follows the smashed data only in a defense that has been trained in this process.
    victim.protection.defenses[0]._in_training = True
    seen = observe(
        cell_of(victim.spec, "inverse_decoder", phase="training", targets=TargetRule()),
        victim,
        digits,
        InverseDecoder(),
    )
    before = {name: value.clone() for name, value in victim.protection.defenses[0].state.items()}
    for _ in range(3):
        seen.view.query(digits.auxiliary.images[:50] * 10)
    after = victim.protection.defenses[0].state
    assert before
    assert all(torch.equal(after[name], value) for name, value in before.items())
