"""Joins a Ray cluster, or starts one on this machine, and leaves it again."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.executors.cores import cores

if TYPE_CHECKING:
    from types import ModuleType

MAX_RETRIES = 3

_LOCAL = "local"
_CONNECT_SECONDS = 10.0
# Victims and pictures are a few megabytes, and what has no room is spilled to disk.
_OBJECT_STORE_BYTES = 200 * 1024**2
_INSTALL = "pip install 'unsplit-bench[ray]'"


@dataclass(frozen=True)
class RayOptions:
    """Where Ray tasks run and what each of them takes.

    Attributes:
        address: Of a running cluster, `auto` or `HOST:PORT`; None for that of RAY_ADDRESS, or else one that is started
            on this machine and stopped at the end.
        workers: Tasks at once; None for as many as fit.
        cpus: A task's CPUs, fractions too; it computes with as many threads as that has whole ones, at least one.
        gpus: A task's GPUs, fractions too.
        retries: How often a task is run again whose Ray worker or node died.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = MAX_RETRIES

    @property
    def threads(self) -> int:
        """Threads of a task."""
        return max(1, int(self.cpus))

    @property
    def at(self) -> str:
        """The address that Ray is given."""
        return self.address or os.environ.get("RAY_ADDRESS") or _LOCAL


RAY_OPTIONS = RayOptions()


def imported() -> ModuleType:
    """The library.

    Raises:
        UserError: It is not installed.
    """
    # Before the import, which reads them. Nothing is reported to anybody, and workers take the Python of their node:
    # under `uv run` Ray would have each of them build the environment again.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # What is shipped goes before the working folder of a submitted job.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(f"--executor ray: {error}; install it, {_INSTALL}") from None
    return ray


@contextmanager
def connected(options: RayOptions, shipped: Path) -> Iterator[ModuleType]:
    """The library, connected to the cluster; a cluster started for this is stopped at the end.

    Args:
        options: Which cluster.
        shipped: Folder whose copy is every worker's working folder, first on its import path.

    Raises:
        UserError: Ray is not installed, the cluster cannot be joined, or none of its nodes has room for a task.
    """
    _check(options)
    ray = imported()
    _check_reachable(options.at)
    # Ray reports lost workers and nodes on standard output, which is for results.
    with redirect_stdout(sys.stderr):
        try:
            _join(ray, options, shipped)
            _check_room(ray, options)
            yield ray
        finally:
            ray.shutdown()


def _join(ray: ModuleType, options: RayOptions, shipped: Path) -> None:
    arguments: dict[str, Any] = {"address": options.at, "runtime_env": {"working_dir": str(shipped)}}
    if options.at == _LOCAL:
        arguments |= {
            "num_cpus": cores() if options.workers is None else math.ceil(options.workers * options.cpus),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"--executor ray: cannot join the Ray cluster {options.at!r} ({type(error).__name__}: {message}); "
            "check --address, RAY_AUTH_MODE and its token, and that the versions of Python and Ray are the same there"
        ) from error


def _check(options: RayOptions) -> None:
    if "://" in options.at:
        raise UserError(
            f"--address {options.at}: the command must be given on a machine of the cluster, where the address is "
            "auto or HOST:PORT; send it there with `ray job submit`"
        )
    if options.cpus < 0 or options.gpus < 0 or not options.cpus + options.gpus:
        raise UserError(
            f"--cpus-per-task {options.cpus:g} --gpus-per-task {options.gpus:g}: a task must take something; "
            "give fractions above 0"
        )


def _check_reachable(address: str) -> None:
    # Ray would try for minutes.
    host, _, port = address.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--address {address}: nobody answers there ({error}); give HOST:PORT of the cluster's head node, "
            "6379 by default, or auto on one of its machines"
        ) from None


def _check_room(ray: ModuleType, options: RayOptions) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= options.cpus and node.get("GPU", 0) >= options.gpus for node in nodes):
        return
    needs = f"--cpus-per-task {options.cpus:g} --gpus-per-task {options.gpus:g}"
    most = ", ".join(f"{max((node.get(kind, 0) for node in nodes), default=0):g} {kind}" for kind in ("CPU", "GPU"))
    if options.at == _LOCAL:
        raise UserError(f"{needs}: this machine offers {most}; lower them, or raise --workers")
    # A cluster may grow: its autoscaler starts nodes for tasks that wait.
    logging.getLogger(__name__).warning("%s: no node has room for a task yet (at most %s); waiting", needs, most)
