"""What is asked of a Ray cluster, and the sentences where it cannot be had; Ray itself is not needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmark.cell import Group
from benchmark.commands.session import cluster_of, device_of
from benchmark.context import RunContext
from benchmark.errors import UserError
from benchmark.executors import ray as ray_executor
from benchmark.executors.ray_cluster import RayOptions, connected
from benchmark.options import Options
from tests.specs import cell_of, victim_spec

if TYPE_CHECKING:
    from benchmark.data import Dataset


def test_without_ray_the_sentence_says_how_to_get_it(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    group = Group((cell_of(victim_spec(digits), "unsplit"),))
    with pytest.raises(UserError, match=r"--executor ray: .*ray.*; install it, pip install 'unsplit-bench\[ray\]'"):
        ray_executor.run([group], RunContext("smoke-v1", "d1", str(tmp_path)), lambda _: None)


def test_nothing_to_run_needs_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ray_executor.run([], RunContext("smoke-v1", "d1", str(tmp_path)), lambda _: None)


def refused(options: RayOptions, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The sentence with which a cluster is refused before Ray is asked."""
    monkeypatch.setitem(sys.modules, "ray", sys.modules["benchmark.executors.ray"])
    with pytest.raises(UserError) as error, connected(options, folder):
        pass
    return str(error.value)


def test_a_ray_client_address_is_refused_with_the_way_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "`ray job submit`" in refused(RayOptions("ray://head:10001"), tmp_path, monkeypatch)


def test_an_address_where_nobody_answers_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refused(RayOptions("127.0.0.1:1"), tmp_path, monkeypatch)
    assert sentence.startswith("--address 127.0.0.1:1: nobody answers there")


@pytest.mark.parametrize(("cpus", "gpus"), [(0.0, 0.0), (-1.0, 1.0)])
def test_a_task_must_take_something(cpus: float, gpus: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a task must take something" in refused(RayOptions(cpus=cpus, gpus=gpus), tmp_path, monkeypatch)


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.0, 1), (1.5, 1), (4.0, 4)])
def test_a_task_has_as_many_threads_as_whole_cpus(cpus: float, threads: int) -> None:
    assert RayOptions(cpus=cpus).threads == threads


def test_the_address_is_the_options_then_the_environments_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert RayOptions().at == "local"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert (RayOptions().at, RayOptions("other:6379").at) == ("head:6379", "other:6379")


@pytest.mark.parametrize(
    ("gpus", "device", "chosen"), [(None, "auto", "cpu"), (0.25, "auto", "cuda"), (1.0, "cuda", "cuda")]
)
def test_ray_tasks_use_the_gpus_they_ask_for_though_this_machine_has_none(
    gpus: float | None, device: str, chosen: str
) -> None:
    assert device_of(Options("smoke-v1", executor="ray", device=device, gpus_per_task=gpus)) == chosen


@pytest.mark.parametrize(
    ("gpus", "device", "remedy"), [(None, "cuda", "add --gpus-per-task"), (1.0, "cpu", "leave --gpus-per-task out")]
)
def test_a_device_against_the_gpus_asked_for_is_refused(gpus: float | None, device: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        device_of(Options("smoke-v1", executor="ray", device=device, gpus_per_task=gpus))


@pytest.mark.parametrize("given", [{"address": "auto"}, {"cpus_per_task": 2.0}, {"gpus_per_task": 1.0}])
def test_what_is_of_ray_only_is_refused_elsewhere(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"is of Ray clusters only; add --executor ray"):
        cluster_of(Options("smoke-v1", **given))  # type: ignore[arg-type]
