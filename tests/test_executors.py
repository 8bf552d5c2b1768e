from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from benchmark.cell import Cell, Group
from benchmark.context import RunContext
from benchmark.errors import UserError
from benchmark.executors import inline, local
from benchmark.executors.attempt import Failure, failure_of
from benchmark.executors.process import Worker
from tests.specs import cell_of, victim_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmark.data import Dataset
    from benchmark.record import Record

FAULTY = Path(__file__).parent / "plugins" / "faulty.py"
QUIET, LOUD = "gaussian_noise:sigma=0.1", "gaussian_noise:sigma=5.0"


@pytest.fixture(scope="module")
def group_of(digits: Dataset) -> Callable[..., Group]:
    """A group of a quiet and a loud victim; the attacks of `faulty.py` fail on the loud one."""

    def build(attack: str, *defenses: str) -> Group:
        victims = [victim_spec(digits, defense, epochs=0) for defense in defenses or (QUIET, LOUD)]
        return Group(tuple(cell_of(victim, f"{FAULTY}:{attack}") for victim in victims))

    return build


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext("smoke-v1", "d1", str(tmp_path_factory.mktemp("victims")))


def by_name(records: list[Record]) -> dict[tuple[str, str], Record]:
    assert len({record.key for record in records}) == len(records)
    return {(record.axes.attack, record.axes.params): record for record in records}


def outcome(record: Record) -> Record:
    """The record without what a clock or the operating system says."""
    timed = {"training_seconds", "time_ratio"}
    return replace(record, run={}, cost={name: value for name, value in record.cost.items() if name not in timed})


def inline_records(groups: list[Group], context: RunContext) -> dict[tuple[str, str], Record]:
    records: list[Record] = []
    inline.run(groups, context, records.append)
    return by_name(records)


def test_a_raising_attack_costs_only_the_cell_it_raises_on(group_of: Callable[..., Group], context: RunContext) -> None:
    records = inline_records([group_of("Raises"), group_of("Steady")], context)
    assert {name: record.status for name, record in records.items()} == {
        ("raises", "sigma=0.1"): "done",
        ("raises", "sigma=5.0"): "failed",
        ("steady", "sigma=0.1"): "done",
        ("steady", "sigma=5.0"): "done",
    }
    failed = records["raises", "sigma=5.0"]
    assert failed.reason == "raised ValueError: no such luck while attacking"
    assert failed.traceback is not None
    assert 'raise ValueError("no such' in failed.traceback


def test_a_broken_contract_is_its_sentence_without_a_traceback(
    group_of: Callable[..., Group], context: RunContext
) -> None:
    failed = inline_records([group_of("Returns", LOUD)], context)["returns", "sigma=5.0"]
    assert failed.reason is not None
    assert failed.reason.startswith("attack returns: run returned 0 findings for 1 views")
    assert failed.traceback is None


def test_an_attack_that_exits_does_not_end_an_inline_run(group_of: Callable[..., Group], context: RunContext) -> None:
    failed = inline_records([group_of("Exits", LOUD)], context)["exits", "sigma=5.0"]
    assert failed.reason == "called sys.exit(3) while attacking"


def test_an_error_of_the_one_who_keeps_records_is_not_taken_for_the_attacks(
    group_of: Callable[..., Group], context: RunContext
) -> None:
    def full(_: Record) -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        inline.run([group_of("Steady")], context, full)


def test_a_group_that_is_not_wanted_any_more_is_left_out(group_of: Callable[..., Group], context: RunContext) -> None:
    records: list[Record] = []
    inline.run([group_of("Steady")], context, records.append, wanted=lambda _: False)
    assert records == []


def test_progress_tells_training_attack_and_end(group_of: Callable[..., Group], context: RunContext) -> None:
    told: list[tuple[str, float]] = []
    inline.run([group_of("Steady")], context, lambda _: None, lambda _, stage, done: told.append((stage, done)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["training", "attack", "ended"]
    assert ("attack", 0.5) in told


def test_control_c_is_the_users_not_the_attacks(group_of: Callable[..., Group], context: RunContext) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inline.run([group_of("Steady")], context, lambda _: None, interrupt)


def test_a_failure_in_training_says_so() -> None:
    assert failure_of(MemoryError(), "training").reason == "raised MemoryError while training the victims"


def test_only_errors_raised_on_purpose_leave_the_process_trusted() -> None:
    assert failure_of(UserError("no"), "attack") == Failure("no", None, contained=True)
    assert not failure_of(RuntimeError("CUDA error: device-side assert"), "attack").contained


def test_a_cell_keeps_its_key_on_the_way_to_another_process(group_of: Callable[..., Group]) -> None:
    for cell in group_of("Steady").cells:
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))).key() == cell.key()


@pytest.mark.parametrize("attack", ["Unsettles", "Forks"])
def test_an_attack_that_touches_what_is_not_its_own_harms_nobody(
    attack: str, group_of: Callable[..., Group], context: RunContext
) -> None:
    alone = inline_records([group_of("Steady:mark=1")], context)
    folder = os.getcwd()
    beside = inline_records([group_of(attack), group_of("Steady:mark=1")], context)
    assert {record.status for record in beside.values()} == {"done"}
    assert len(beside) == 4
    assert os.getcwd() == folder
    for name, record in alone.items():
        assert outcome(beside[name]) == outcome(record)


def test_an_attack_that_writes_into_its_view_is_scored_on_what_was_there(
    group_of: Callable[..., Group], context: RunContext
) -> None:
    written = inline_records([group_of("Overwrites")], context)
    steady = inline_records([group_of("Steady")], context)
    for params in ("sigma=0.1", "sigma=5.0"):
        ours, theirs = written["overwrites", params], steady["steady", params]
        assert (ours.per_image, ours.controls, ours.utility) == (theirs.per_image, theirs.controls, theirs.utility)


def test_an_attack_that_draws_from_global_streams_finds_the_same_whatever_ran_before(
    group_of: Callable[..., Group], context: RunContext
) -> None:
    first = inline_records([group_of("DrawsGlobally")], context)
    torch.manual_seed(5)
    again = inline_records([group_of("Steady"), group_of("DrawsGlobally")], context)
    for name, record in first.items():
        assert outcome(again[name]) == outcome(record)


@pytest.fixture(scope="module")
def local_records(
    group_of: Callable[..., Group], context: RunContext, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Record], Path]:
    """What two worker processes make of an attack that kills its process and one that does not."""
    records: list[Record] = []
    logs = tmp_path_factory.mktemp("logs")
    local.run([group_of("HardExits"), group_of("Steady")], context, records.append, logs=logs)
    return records, logs


def test_a_process_that_exits_costs_only_the_cell_it_exits_on(local_records: tuple[list[Record], Path]) -> None:
    records = by_name(local_records[0])
    assert {name: record.status for name, record in records.items()} == {
        ("hard_exits", "sigma=0.1"): "done",
        ("hard_exits", "sigma=5.0"): "failed",
        ("steady", "sigma=0.1"): "done",
        ("steady", "sigma=5.0"): "done",
    }
    assert records["hard_exits", "sigma=5.0"].reason == "the worker process exited with code 7 while attacking"


def test_a_child_process_finds_what_this_process_finds(
    local_records: tuple[list[Record], Path], group_of: Callable[..., Group], context: RunContext
) -> None:
    there = by_name(local_records[0])["steady", "sigma=0.1"]
    here = inline_records([group_of("Steady")], context)["steady", "sigma=0.1"]
    assert there.key == here.key
    assert there.per_image["ssim_aligned"] == pytest.approx(here.per_image["ssim_aligned"], abs=1e-5)


def test_worker_output_goes_to_the_logs(local_records: tuple[list[Record], Path]) -> None:
    assert sorted(path.name for path in local_records[1].iterdir()) == ["worker-0.log", "worker-1.log"]


def test_a_worker_that_cannot_start_is_one_sentence_that_names_its_log(
    tmp_path: Path, group_of: Callable[..., Group], context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UserError, match=r"cannot start \(the last one exited with code 1\); see .*worker-\d\.log"):
        local.run([group_of("Steady")], context, lambda _: None, logs=tmp_path)


def test_a_log_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(UserError, match=r"worker-0\.log: .* choose another --output"):
        Worker(tmp_path / "logs" / "worker-0.log")
