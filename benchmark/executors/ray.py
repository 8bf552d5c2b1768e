"""Runs groups as Ray tasks, on one machine or a cluster, with the records of the local executor.

Each victim is trained once, as a task of its own, and its files are handed through Ray's object store to the groups
that need them: nodes need share no file system. Records return here, where alone they are stored.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.cell import Group
from benchmark.environment import environment
from benchmark.errors import UserError
from benchmark.executors.attempt import Failure, OnProgress, OnRecord, Stage, Wanted, after_failure
from benchmark.executors.handover import Training, cached, group_trainings, trainings
from benchmark.executors.ray_cluster import RAY_OPTIONS, RayOptions, connected
from benchmark.executors.ray_shelf import Shelf
from benchmark.executors.ray_task import Board, Outcome, Task, carry_out
from benchmark.executors.shipping import pack
from benchmark.executors.slot import LIMITS, Limits
from benchmark.files import write_atomically
from benchmark.record import Record

if TYPE_CHECKING:
    from types import ModuleType

    from ray import ObjectRef

    from benchmark.cell import Cell
    from benchmark.context import RunContext

_LOOK_SECONDS = 0.5
# Enough waiting tasks for an autoscaler to see how much there is to do.
_IN_FLIGHT = 1000
# What of a record's environment belongs to the code, which is shipped from here, and not to the node.
_SHIPPED_FACTS = ("unsplit-bench", "commit")
_LONGEST_MESSAGE = 500


def run(
    groups: Sequence[Group],
    context: RunContext,
    on_record: OnRecord,
    on_progress: OnProgress = lambda *_: None,
    wanted: Wanted = lambda _: True,
    *,
    options: RayOptions = RAY_OPTIONS,
    limits: Limits = LIMITS,
) -> None:
    """Run groups as Ray tasks; everything handed over is handed over in this process and thread.

    A group that fails or exceeds its limit is split as by the local executor. Ray runs a task again whose worker or
    node died; when it gives up, that is the group's failure.

    Args:
        groups: Submitted in this order, each once its victims are trained.
        context: Where and for which suite; its folders are this machine's.
        on_record: Given each cell's record as it arrives, also those of cells that failed.
        on_progress: Called with a group, its stage and that stage's done fraction.
        wanted: Asked before a group is submitted; one that is not wanted any more is left out.
        options: Which cluster, and what a task takes.
        limits: As of the local executor.

    Raises:
        UserError: Ray is not installed, the cluster cannot be joined, or a node cannot run tasks.
        KeyboardInterrupt: The user stopped the run; records so far have been handed over.
    """
    if not groups:
        return
    # Where nothing is said of data sets, each node looks in its own place.
    root = context.data_root or os.environ.get("UNSPLIT_BENCH_DATA")
    context = replace(context, data_root=root and os.path.abspath(os.path.expanduser(root)))
    with tempfile.TemporaryDirectory(prefix="unsplit-bench-") as folder:
        packed = pack(Path(folder), groups)
        with connected(options, Path(folder)) as ray:
            schedule = _Schedule(ray, options, context, limits, packed, on_record, on_progress, wanted)
            schedule.add(groups)
            schedule.run()


@dataclass(eq=False)
class _Waiting:
    """A group that is not submitted yet, and what must have been trained, by key."""

    group: Group
    trainings: dict[str, Training]
    wanted: bool = False


@dataclass(eq=False)
class _Running:
    """A task that is submitted: of a group, or of a training, which shows as a group of one cell."""

    number: int
    group: Group
    training: Training | None


_State = Literal["running", "ready"] | Failure


@dataclass
class _Schedule:
    """A run under way.

    Attributes:
        waiting: Groups to come, in order.
        running: Tasks by what they will return.
        trained: How far a training is, or why it failed, by key.
    """

    ray: ModuleType
    options: RayOptions
    context: RunContext
    limits: Limits
    packed: dict[str, str]
    on_record: OnRecord
    on_progress: OnProgress
    wanted: Wanted
    waiting: list[_Waiting] = field(default_factory=list)
    running: dict[ObjectRef[Outcome], _Running] = field(default_factory=dict)
    trained: dict[str, _State] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.shelf = Shelf(self.ray, Path(self.context.cache))
        self.at_once = self.options.workers or _IN_FLIGHT
        self.remote = self.ray.remote(carry_out).options(
            num_cpus=self.options.cpus,
            num_gpus=self.options.gpus,
            max_retries=self.options.retries,
            retry_exceptions=False,
        )
        # It only knows what running tasks tell anyway: lost with its node, it starts anew.
        self.board = self.ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
        self.told = self.board.progress.remote([])

    def add(self, groups: Sequence[Group]) -> None:
        """Put groups before those that wait."""
        added = [_Waiting(group, group_trainings(group)) for group in groups]
        for waiting in added:
            self.shelf.reserve(waiting.trainings)
        self.waiting[:0] = added

    def run(self) -> None:
        while self.waiting or self.running:
            self._submit()
            if self.running:
                self.ray.wait(list(self.running), timeout=_LOOK_SECONDS)
                ended, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
                for ref in ended:
                    self._end(ref)
            self._show()

    def _submit(self) -> None:
        """Submit what can be; what follows of a failure comes before the rest."""
        before, self.waiting = self.waiting, []
        rest = [waiting for waiting in before if len(self.running) >= self.at_once or not self._advanced(waiting)]
        self.waiting += rest

    def _advanced(self, waiting: _Waiting) -> bool:
        """Whether the group need not wait any more: it is submitted, not wanted, or has a victim that failed."""
        if not waiting.wanted and not self.wanted(waiting.group):
            self.shelf.release(waiting.trainings)
            return True
        waiting.wanted = True
        states = [self._state(training) for training in waiting.trainings.values()]
        if any(state == "running" for state in states):
            return False
        if any(isinstance(state, Failure) for state in states):
            self._fail_untrained(waiting)
            return True
        # Asked again: another run on the same store may have been faster meanwhile.
        if self.wanted(waiting.group):
            self._start(waiting.group, None, list(waiting.trainings))
        else:
            self.shelf.release(waiting.trainings)
        return True

    def _state(self, training: Training) -> _State:
        """How far a training is, submitting it where it can be; those it needs have been asked before."""
        if training.key in self.trained:
            return self.trained[training.key]
        needs = [self.trained.get(key, "running") for key in training.needs]
        if "running" in needs:
            return "running"
        failures = [state for state in needs if isinstance(state, Failure)]
        if failures:
            self.trained[training.key] = failures[0]
        elif cached(training, self.shelf.cache) is not None:
            self.trained[training.key] = "ready"
        else:
            self.trained[training.key] = "running"
            self._start(Group((training.cell,)), training, training.needs)
        return self.trained[training.key]

    def _start(self, group: Group, training: Training | None, needs: Sequence[str]) -> None:
        task: Task = {
            "cells": [cell.to_json() for cell in group.cells],
            "context": self.context.to_json(),
            "attack": training is None,
            "packed": self.packed,
            "limits": asdict(self.limits),
            "threads": self.options.threads,
            "cwd": os.getcwd(),
        }
        self.count += 1
        ref = self.remote.remote(self.count, task, self.board, *self.shelf.take(needs))
        self.running[ref] = _Running(self.count, group, training)

    def _end(self, ref: ObjectRef[Outcome]) -> None:
        running = self.running.pop(ref)
        outcome = self._outcome(ref)
        if isinstance(outcome, Failure):
            outcome = {"records": [], "failure": vars(outcome), "made": {}, "images": {}}
        failure = None if outcome["failure"] is None else Failure(**outcome["failure"])
        self._keep_files(outcome)
        if running.training is not None:
            lacking = failure or Failure("the training left no victim")
            whole = set(running.training.files) <= outcome["made"].keys()
            self.trained[running.training.key] = "ready" if whole else lacking
        else:
            self._end_group(running.group, outcome["records"], failure)
        self.on_progress(running.group, "ended", 1.0)

    def _end_group(self, group: Group, records: Sequence[dict[str, Any]], failure: Failure | None) -> None:
        missing = {cell.key(): cell for cell in group.cells}
        for record in map(Record.from_json, records):
            if missing.pop(record.key, None) is not None:
                facts = {name: fact for name, fact in environment().items() if name in _SHIPPED_FACTS}
                self.on_record(replace(record, run={**record.run, "environment": record.run["environment"] | facts}))
        if missing:
            self._split(group, missing, failure or Failure("the runner gave no record for it"))
        self.shelf.release(group_trainings(group))

    def _fail_untrained(self, waiting: _Waiting) -> None:
        """Fail the cells whose victims could not be trained; the others run one by one."""
        for cell in waiting.group.cells:
            failures = [self.trained[training.key] for training in trainings(cell)]
            failure = next((found for found in failures if isinstance(found, Failure)), None)
            if failure is None:
                self.add([Group((cell,))])
            else:
                self._split(Group((cell,)), {cell.key(): cell}, failure)
        self.shelf.release(waiting.trainings)

    def _split(self, group: Group, missing: dict[str, Cell], failure: Failure) -> None:
        # This machine need not have the device that the nodes have.
        here = replace(self.context, device="cpu")
        self.add(after_failure(group, missing, failure, here, self._keep_failed))

    def _keep_failed(self, record: Record) -> None:
        self.on_record(replace(record, run={**record.run, "device": self.context.device}))

    def _keep_files(self, outcome: Outcome) -> None:
        self.shelf.keep(outcome["made"])
        # Before the records: a record that is stored has its images.
        for name, content in outcome["images"].items():
            assert self.context.images is not None
            write_atomically(Path(self.context.images) / name, content)

    def _outcome(self, ref: ObjectRef[Outcome]) -> Outcome | Failure:
        errors = self.ray.exceptions
        try:
            outcome: Outcome = self.ray.get(ref)
        except errors.RayTaskError as error:
            raise UserError(f"--executor ray: node {error.ip} cannot run tasks: {_line(error.cause)}") from error
        except errors.RuntimeEnvSetupError as error:
            raise UserError(f"--executor ray: a node cannot be set up: {_line(error)}") from error
        except errors.RayError as error:
            return Failure(f"lost its Ray worker or node, {self.options.retries} retries included ({_line(error)})")
        return outcome

    def _show(self) -> None:
        """Show how far the tasks are, as far as the board has answered; nothing waits for it."""
        if not self.ray.wait([self.told], timeout=0)[0]:
            return
        with suppress(self.ray.exceptions.RayError):
            told: dict[int, tuple[Stage, float]] = self.ray.get(self.told)
            for running in self.running.values():
                if running.number in told:
                    self.on_progress(running.group, *told[running.number])
        alive = [running.number for running in self.running.values()]
        self.told = self.board.progress.remote(alive)


def _line(error: object) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text[:_LONGEST_MESSAGE]
