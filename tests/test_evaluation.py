from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

import benchmark
from benchmark.leaderboard import COLUMNS
from benchmark.seeds import Rng
from defenses.base import Defense, Phase

SUITE = """\
name: little
dataset: mnist-5k
model: mnist_net
seeds: [0]
training: {epochs: 1}
blocks:
  - name: inputs
    topology: vanilla
    cuts: [pool1]
    defenses: [none]
    attacks: ["known_client:steps=20", "unsplit:clone=joint,rounds=1,input_steps=5,model_steps=5"]
"""


class Halved(Defense):
    """Halves the smashed data, which hides nothing. Own work."""

    name = "halved"
    side = "activations"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        return z / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that victims and the classifier are trained once."""
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def suite(folder: Path) -> str:
    path = folder / "little.yaml"
    path.write_text(SUITE)
    return str(path)


def test_one_call_ranks_a_defense_beside_none(suite: str, folder: Path) -> None:
    frame = benchmark.evaluate(suite, defense=Halved(), output=folder / "out", device="cpu")
    assert tuple(frame.columns) == COLUMNS
    assert set(frame["defense"]) == {"none", "halved"}
    assert (frame["n_done"] == frame["n_planned"]).all()


def test_defenses_given_as_a_list_are_composed(suite: str, folder: Path) -> None:
    frame = benchmark.evaluate(
        suite, defense=[Halved(), "gaussian_noise:relative=0.1"], output=folder / "out", device="cpu"
    )
    assert {"none", "halved + gaussian_noise"} <= set(frame["defense"])
