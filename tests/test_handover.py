from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from benchmark.cell import Group
from benchmark.executors.handover import cached, group_trainings, trainings
from benchmark.executors.ray_task import read_files
from benchmark.victim import obtain_victim
from tests.specs import WATCH, cell_of, victim_spec

if TYPE_CHECKING:
    from benchmark.data import Dataset

NOISE = "gaussian_noise:sigma=0.5"


@pytest.mark.parametrize(
    ("defenses", "watch", "n"), [((), None, 1), ((), WATCH, 2), ((NOISE,), None, 2), ((NOISE,), WATCH, 2)]
)
def test_trainings_add_to_the_cache_what_they_say_and_no_more(
    digits: Dataset, tmp_path: Path, defenses: tuple[str, ...], watch: object, n: int
) -> None:
    cell = cell_of(victim_spec(digits, *defenses, watch=watch, batch_size=1000), "unsplit")
    found = trainings(cell)
    assert len(found) == n
    for training in found:
        before = set(read_files(tmp_path))
        assert cached(training, tmp_path) is None
        obtain_victim(training.cell.victim, digits, tmp_path, torch.device("cpu"))
        assert set(read_files(tmp_path)) - before == set(training.files)
        assert cached(training, tmp_path) == {name: (tmp_path / name).read_bytes() for name in training.files}
    before = read_files(tmp_path)
    for spec in (cell.victim, cell.victim.undefended()):
        obtain_victim(spec, digits, tmp_path, torch.device("cpu"))
    assert read_files(tmp_path) == before


def test_victims_of_one_seed_share_the_undefended_training(digits: Dataset) -> None:
    cells = [cell_of(victim_spec(digits, *defenses), "unsplit") for defenses in ((), (NOISE,), ("max_norm",))]
    found = group_trainings(Group(tuple(cells)))
    assert [len(training.needs) for training in found.values()] == [0, 1, 1]
    assert {key for training in found.values() for key in training.needs} == {next(iter(found))}


def test_a_torn_file_counts_as_none(digits: Dataset, tmp_path: Path) -> None:
    (training,) = trainings(cell_of(victim_spec(digits, batch_size=1000), "unsplit"))
    obtain_victim(training.cell.victim, digits, tmp_path, torch.device("cpu"))
    file = tmp_path / training.files[0]
    file.write_bytes(file.read_bytes()[:-10])
    assert cached(training, tmp_path) is None
