"""The Ray executor on a real cluster of two nodes, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmark.store import Store
from tests.test_faults import comparable, processes
from tests.test_faults import until as until_within

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from benchmark.record import Record

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[str]]

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "tests" / "plugins"
QUIET, LOUD = "defense=gaussian_noise:sigma=0.1", "defense=gaussian_noise:sigma=5.0"
OBJECT_STORE_BYTES = 100 * 1024**2
# A node that is gone is noticed within three seconds; Ray's own default is half a minute.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 6}


def faulty(*attacks: str) -> list[str]:
    return [f"{PLUGINS / 'faulty.py'}:{attack}" for attack in attacks]


def held(notes: Path, *marks: int) -> list[str]:
    notes.mkdir(exist_ok=True)
    return [f"{PLUGINS / 'watched.py'}:Holds:mark={mark},notes={notes}" for mark in marks]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**node, "_system_config": HEALTH})
    made.add_node(**node)
    yield made
    made.shutdown()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `drive_ray.py`; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def driver(output: Path, where: str, *specs: str, cwd: Path = ROOT) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        process = subprocess.Popen(
            [sys.executable, str(PLUGINS / "drive_ray.py"), str(output), where, *specs],
            cwd=cwd,
            env={**environment, "PWD": str(cwd), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield driver
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], object]) -> bool:
    return until_within(condition, seconds=120.0)


def finish(driver: subprocess.Popen[str]) -> str:
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    return out.strip()


def records(output: Path) -> list[Record]:
    with Store(output / "store.sqlite") as store:
        return comparable(store.records("faults", "d1"))


def notes_of(folder: Path, title: str) -> list[tuple[int, int]]:
    """Process and parent of each note with this title."""
    names = [path.name.split(" ") for path in folder.glob(f"{title}* *")]
    return [(int(pid), int(parent)) for _, pid, parent in names]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def working_in(folder: Path) -> list[str]:
    """Commands of the living processes that were started from a folder, as their PWD says."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if f"PWD={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def untold(found: list[Record]) -> list[Record]:
    """Records without where in a program something went wrong: that names folders and processes."""
    return [replace(record, traceback=None) for record in found]


def test_a_cluster_gives_the_records_and_pictures_of_the_local_executor(
    cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    specs = [
        QUIET,
        LOUD,
        "limit=6",
        *faulty("Steady", "Hangs", "HardExits"),
    ]
    assert finish(start(tmp_path / "local", "local", *specs)) == "4 2 6 0"
    assert finish(start(tmp_path / "ray", cluster.address, *specs)) == "4 2 6 0"
    assert untold(records(tmp_path / "ray")) == untold(records(tmp_path / "local"))
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / where / "images").iterdir()} for where in ("local", "ray")
    )
    assert len(there) == 4
    assert here.keys() >= there.keys()
    assert all(here[name] == there[name] for name in there)


def test_a_victim_is_trained_once_for_all_nodes(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    specs = [f"defense={PLUGINS / 'watched.py'}:Counted:notes={notes}", *held(notes, 0, 1)]
    driver = start(tmp_path / "ray", cluster.address, *specs)
    assert until(lambda: len(notes_of(notes, "attack")) == 2)
    assert len({parent_of(parent) for _, parent in notes_of(notes, "attack")}) == 2
    (notes / "released").touch()
    assert finish(driver) == "2 0 2 0"
    assert len(notes_of(notes, "training")) == 1


def test_a_killed_worker_costs_nothing(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    specs = [QUIET, LOUD, *held(notes, 0, 1), *faulty("Steady")]
    driver = start(tmp_path / "ray", cluster.address, *specs)
    assert until(lambda: len(notes_of(notes, "attack")) == 2)
    child, worker = notes_of(notes, "attack0")[0]
    os.kill(worker, signal.SIGKILL)
    assert until(lambda: len(notes_of(notes, "attack0")) == 2)
    assert child not in processes("benchmark.executors.worker")
    (notes / "released").touch()
    assert finish(driver) == "6 0 6 0"
    assert finish(start(tmp_path / "local", "local", *specs)) == "6 0 6 0"
    assert records(tmp_path / "ray") == records(tmp_path / "local")


def test_a_removed_node_costs_nothing(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    specs = [QUIET, LOUD, *held(notes, 0, 1), *faulty("Steady")]
    driver = start(tmp_path / "ray", cluster.address, *specs)
    assert until(lambda: len(notes_of(notes, "attack")) == 2)
    (second,) = cluster.worker_nodes
    raylet = second.all_processes["raylet"][0].process.pid
    lost = [child for child, worker in notes_of(notes, "attack") if parent_of(worker) == raylet]
    assert len(lost) == 1
    cluster.remove_node(second, allow_graceful=False)
    assert until(lambda: not set(lost) & set(processes("benchmark.executors.worker")))
    (notes / "released").touch()
    assert finish(driver) == "6 0 6 0"
    assert len(notes_of(notes, "attack")) == 3
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
    assert finish(start(tmp_path / "local", "local", *specs)) == "6 0 6 0"
    assert records(tmp_path / "ray") == records(tmp_path / "local")


def test_control_c_ends_the_tasks_and_keeps_what_is_done(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    driver = start(tmp_path / "ray", cluster.address, QUIET, *faulty("Steady"), *held(notes, 0, 1))
    assert until(lambda: len(notes_of(notes, "attack")) == 2 and len(records(tmp_path / "ray")) == 1)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert err.splitlines()[-1].startswith("interrupted: 1 of 3 cells are kept in")
    assert "Traceback" not in err
    children = {child for child, _ in notes_of(notes, "attack")}
    assert until(lambda: not children & set(processes("benchmark.executors.worker")))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with packages and a module of our names, none of which may be imported."""
    folder = tmp_path / "foreign"
    for package in ("attacks", "defenses"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    (folder / "benchmark.py").write_text("raise RuntimeError('the wrong one')")
    return folder


def test_an_own_cluster_in_a_foreign_folder_imports_ours_and_stops_at_the_end(
    start: Start, tmp_path: Path, foreign: Path
) -> None:
    driver = start(tmp_path / "out", "own", QUIET, *faulty("Steady"), cwd=foreign)
    assert until(lambda: any("raylet" in command for command in working_in(foreign)))
    assert finish(driver) == "1 0 1 0"
    assert until(lambda: not working_in(foreign))
