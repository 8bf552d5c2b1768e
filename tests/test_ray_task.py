"""What a Ray worker does with a task, without Ray: the child process is real, the worker is this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from benchmark.cell import Group
from benchmark.context import RunContext
from benchmark.executors import inline, ray_task
from benchmark.executors.handover import trainings
from benchmark.executors.ray_task import Board, Outcome, Task, carry_out
from benchmark.executors.slot import Limits
from benchmark.record import Record
from tests.specs import cell_of, victim_spec
from tests.test_faults import comparable

if TYPE_CHECKING:
    from benchmark.data import Dataset

FAULTY = Path(__file__).parent / "plugins" / "faulty.py"
QUIET, LOUD = "gaussian_noise:sigma=0.1", "gaussian_noise:sigma=5.0"
CONTEXT = RunContext("smoke-v1", "d1", "/nowhere/victims", images="/nowhere/images", verdicts={})

CarryOut = Callable[..., Outcome]


@pytest.fixture
def told() -> list[tuple[int, str, float]]:
    return []


@pytest.fixture
def carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[tuple[int, str, float]]
) -> Iterator[CarryOut]:
    """Carries out a task in a working folder of its own, telling `told` how far it is."""
    monkeypatch.chdir(tmp_path)
    board = SimpleNamespace(report=SimpleNamespace(remote=lambda *args: told.append(args)))

    def run(group: Group, *handed: dict[str, bytes], attack: bool = True) -> Outcome:
        task: Task = {
            "cells": [cell.to_json() for cell in group.cells],
            "context": CONTEXT.to_json(),
            "attack": attack,
            "packed": {},
            "limits": asdict(Limits()),
            "threads": 1,
            "cwd": str(tmp_path),
        }
        return carry_out(7, task, board, *handed)

    yield run
    for slot in list(ray_task._slots.values()):
        ray_task._dismiss(slot)


@pytest.fixture
def group(digits: Dataset) -> Group:
    return Group(tuple(cell_of(victim_spec(digits, d, epochs=0), f"{FAULTY}:HardExits") for d in (QUIET, LOUD)))


@pytest.mark.slow
def test_what_a_plug_in_does_to_its_process_is_a_failure_and_leaves_the_worker_whole(
    carried_out: CarryOut, group: Group, told: list[tuple[int, str, float]]
) -> None:
    assert (carried_out(group)["failure"] or {})["reason"] == "the worker process exited with code 7 while attacking"
    quiet = Group(group.cells[:1])
    outcome = carried_out(quiet)
    here: list[Record] = []
    inline.run([quiet], RunContext("smoke-v1", "d1", "victims", verdicts={}), here.append)
    assert outcome["failure"] is None
    assert comparable([Record.from_json(value) for value in outcome["records"]]) == comparable(here)
    assert list(outcome["images"]) == [f"{quiet.cells[0].key()}.safetensors"]
    assert {stage for _, stage, _ in told} == {"training", "attack"}
    assert {number for number, _, _ in told} == {7}


@pytest.mark.slow
def test_victims_are_trained_alone_and_handed_on(carried_out: CarryOut, group: Group, tmp_path: Path) -> None:
    first, second = trainings(group.cells[0])
    base = carried_out(Group((first.cell,)), attack=False)
    assert set(base["made"]) >= set(first.files)
    assert base["records"] == []
    own = carried_out(Group((second.cell,)), base["made"], attack=False)
    assert set(own["made"]) >= set(second.files)
    outcome = carried_out(Group(group.cells[:1]), base["made"], own["made"])
    assert len(outcome["records"]) == 1
    assert outcome["made"] == {}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("task-")] == []


def test_the_board_forgets_tasks_that_have_ended() -> None:
    board = Board()
    board.report(1, "training", 0.5)
    board.report(2, "attack", 0.1)
    board.report(1, "attack", 0.0)
    assert board.progress([1, 2, 3]) == {1: ("attack", 0.0), 2: ("attack", 0.1)}
    assert board.progress([2]) == {2: ("attack", 0.1)}
