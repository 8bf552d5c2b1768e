from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmark.store import Store
from benchmark.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmark.record import Record

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "tests" / "plugins" / "drive.py"
STEADY = [f"Steady:mark={mark}" for mark in range(4)]
# What a clock or the operating system says differs from run to run; all else must not.
MEASURED_TIMES = ("training_seconds", "time_ratio")


def start(output: Path, *attacks: str, cwd: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(output), *attacks],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(driver: subprocess.Popen[str]) -> str:
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    return out.strip()


def records(output: Path) -> list[Record]:
    with Store(output / "store.sqlite") as store:
        return store.records("faults", "d1")


def comparable(found: list[Record]) -> list[Record]:
    """Records without what is measured in seconds and bytes of memory."""
    return [replace(r, run={}, cost={k: v for k, v in r.cost.items() if k not in MEASURED_TIMES}) for r in found]


def processes(command: str) -> list[int]:
    """Living processes whose command line contains `command`."""
    listed = subprocess.run(["ps", "-eo", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if len(row) == 3 and not row[1].startswith("Z") and command in row[2]]


def workers_of(driver: int) -> list[int]:
    """Worker processes that a driver has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(r[0]) for r in rows if len(r) == 3 and r[1] == str(driver) and "benchmark.executors.worker" in r[2]]


def until(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (reached := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(reached)


def said(output: Path) -> str:
    """What the workers printed."""
    return "".join(log.read_text() for log in (output / "logs").glob("*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    output = tmp_path_factory.mktemp("undisturbed")
    assert finish(start(output, *STEADY)) == "8 0 8"
    return output, records(output)


def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: tuple[Path, list[Record]]
) -> None:
    draws = random.Random(0)
    kept = [0]
    for moment in (
        lambda: (tmp_path / "store.sqlite").exists(),
        lambda: any((tmp_path / "victims").glob("*")),
        lambda: len(records(tmp_path)) > 0,
        lambda: len(records(tmp_path)) > kept[-1],
    ):
        driver = start(tmp_path, *STEADY)
        assert until(moment)
        time.sleep(draws.uniform(0.0, 0.4))
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        kept.append(len(records(tmp_path)))
    assert kept == sorted(kept)
    assert kept[2] < 8
    assert finish(start(tmp_path, *STEADY)) == "8 0 8"
    assert comparable(records(tmp_path)) == comparable(undisturbed[1])


def test_two_runs_on_one_store_double_nothing_and_lose_nothing(
    tmp_path: Path, undisturbed: tuple[Path, list[Record]]
) -> None:
    drivers = [start(tmp_path, *STEADY) for _ in range(2)]
    assert [finish(driver) for driver in drivers] == ["8 0 8", "8 0 8"]
    assert comparable(records(tmp_path)) == comparable(undisturbed[1])


def test_torn_and_changed_victims_are_trained_again_to_the_same_bits(
    tmp_path: Path, undisturbed: tuple[Path, list[Record]]
) -> None:
    whole = sorted((undisturbed[0] / "victims").glob("*.safetensors"))
    # Three victims and the classifier that reads reconstructions.
    assert len(whole) == 4
    (tmp_path / "victims").mkdir()
    contents = [path.read_bytes() for path in whole]
    flipped = bytearray(contents[1])
    flipped[len(flipped) // 2] ^= 1
    for path, content in zip(whole, (contents[0][:-100], bytes(flipped), b"", contents[3][:1000]), strict=True):
        (tmp_path / "victims" / path.name).write_bytes(content)
    assert finish(start(tmp_path, *STEADY)) == "8 0 8"
    assert comparable(records(tmp_path)) == comparable(undisturbed[1])
    for path in whole:
        again, before = load_tensors(tmp_path / "victims" / path.name)[0], load_tensors(path)[0]
        assert again.keys() == before.keys()
        assert all(again[name].equal(before[name]) for name in before)


FAILURES = {
    "Raises": "raised ValueError: no such luck while attacking",
    "Hangs": "exceeded its time limit of 20 s a cell while attacking",
    "Exits": "called sys.exit(3) while attacking",
    "HardExits": "the worker process exited with code 7 while attacking",
    "Dies": "the worker process died with signal 9 (Killed), as the system does when memory runs out while attacking",
    "Dies:number=11": "the worker process died with signal 11 (Segmentation fault) while attacking",
    "Poisons": "raised RuntimeError: device-side assert while attacking",
    "ClosesPipes": "the worker process closed the pipe it reports through while attacking",
    "Scribbles": "wrote into the harness's own pipe while attacking",
    "Returns": "attack returns: run returned 0 findings for 1 views; return a list with one each",
}


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Record], Path]:
    """One run with an attack of every faulty kind, and good ones between and after them."""
    output = tmp_path_factory.mktemp("disturbed")
    printed = finish(start(output, STEADY[0], *FAILURES, *STEADY[1:]))
    return printed, records(output), output


def test_every_fault_costs_the_cell_it_happens_in(disturbed: tuple[str, list[Record], Path]) -> None:
    printed, found, _ = disturbed
    failed = [record for record in found if record.status == "failed"]
    assert {record.axes.params for record in failed} == {"sigma=5.0"}
    assert sorted(record.reason or "" for record in failed) == sorted(FAILURES.values())
    assert printed == "18 10 28"


def test_faults_leave_the_others_as_they_are_without(
    disturbed: tuple[str, list[Record], Path], undisturbed: tuple[Path, list[Record]]
) -> None:
    keys = {record.key for record in undisturbed[1]}
    assert comparable([r for r in disturbed[1] if r.key in keys]) == comparable(undisturbed[1])


def test_a_hanging_attack_shows_where_it_hung(disturbed: tuple[str, list[Record], Path]) -> None:
    (hung,) = [r for r in disturbed[1] if r.status == "failed" and r.axes.attack == "hangs"]
    assert hung.traceback is not None
    assert "faulty.py" in hung.traceback
    assert "in fail" in hung.traceback


def test_a_leak_of_memory_costs_the_cell_that_leaks_and_shows_where(
    tmp_path: Path, undisturbed: tuple[Path, list[Record]]
) -> None:
    shutil.copytree(undisturbed[0] / "victims", tmp_path / "victims")
    assert finish(start(tmp_path, "Leaks", STEADY[0], HELD=str(3 * 1024**3))) == "3 1 4"
    (leaked,) = [record for record in records(tmp_path) if record.status == "failed"]
    assert (leaked.axes.attack, leaked.axes.params) == ("leaks", "sigma=5.0")
    said = r"held \d\.\d GiB of the 3\.0 GiB of memory that all workers may hold together while attacking"
    assert re.fullmatch(said, leaked.reason or "")
    assert "in fail" in (leaked.traceback or "")
    steady = [record for record in records(tmp_path) if record.axes.attack == "steady"]
    keys = {record.key for record in steady}
    assert len(keys) == 2
    assert comparable(steady) == comparable([record for record in undisturbed[1] if record.key in keys])


UNHARMED = ["DrawsGlobally", "Unsettles", "Overwrites", "Forks", "ForksAndRaises"]


def test_attacks_that_touch_what_is_not_their_own_are_done_and_harm_nobody(
    tmp_path: Path, undisturbed: tuple[Path, list[Record]]
) -> None:
    shutil.copytree(undisturbed[0] / "victims", tmp_path / "victims")
    between = [attack for pair in zip(UNHARMED, STEADY, strict=False) for attack in pair]
    assert finish(start(tmp_path, *between, UNHARMED[-1])) == "18 0 18"
    keys = {record.key for record in undisturbed[1]}
    assert comparable([r for r in records(tmp_path) if r.key in keys]) == comparable(undisturbed[1])


def test_what_an_attack_prints_and_leaves_running_disturbs_nobody(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    assert finish(start(tmp_path, f"Chatters:note={note}")) == "2 0 2"
    assert '{"event": "done"}' in said(tmp_path)
    left = int(note.read_text())
    assert until(lambda: left not in processes("drive") + processes("worker"))


@pytest.mark.parametrize("busy", ["false", "true"], ids=["asleep", "holding the interpreter's lock"])
def test_hanging_workers_die_with_their_parent(tmp_path: Path, busy: str) -> None:
    driver = start(tmp_path, f"Hangs:busy={busy}")
    assert until(lambda: "hanging" in said(tmp_path))
    workers = workers_of(driver.pid)
    assert workers
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert until(lambda: not set(workers) & set(processes("benchmark.executors.worker")), seconds=10.0)


def test_control_c_kills_the_workers_and_ends_in_a_sentence(tmp_path: Path) -> None:
    driver = start(tmp_path, "Steady", "Hangs")
    assert until(lambda: (tmp_path / "store.sqlite").exists() and len(records(tmp_path)) >= 2)
    workers = workers_of(driver.pid)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert err.startswith("interrupted: ")
    assert "of 4 cells are kept in" in err
    assert "Traceback" not in err
    assert len(records(tmp_path)) >= 2
    assert not set(workers) & set(processes("benchmark.executors.worker"))


def test_a_folder_with_its_own_attacks_does_not_get_in_the_way(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    for package in ("attacks", "defenses", "benchmark"):
        (foreign / package).mkdir(parents=True)
        (foreign / package / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    assert finish(start(tmp_path / "out", "Steady", cwd=foreign)) == "2 0 2"
