from __future__ import annotations

import subprocess
import sys

import pytest

from benchmark.executors.cores import cores, default_workers, threads_asked_for


@pytest.mark.parametrize(
    ("written", "threads"), [(None, 1), ("", 1), ("4", 4), ("4,2", 4), (" 3 ", 3), ("0", 1), ("many", 1)]
)
def test_threads_are_those_of_omp_num_threads_or_one(
    written: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if written is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", written)
    assert threads_asked_for() == threads


def test_processes_fill_the_cores_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.executors.cores.cores", lambda: 8)
    assert [default_workers(threads) for threads in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]


def test_a_process_bound_to_one_core_counts_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from benchmark.executors.cores import cores; print(cores())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "1\n"
    assert cores() >= 1
