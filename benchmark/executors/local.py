"""Runs groups in persistent child processes, with a time limit, so that a bad cell takes nobody along."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.executors.attempt import Failure, OnProgress, OnRecord, Stage, Wanted, after_failure, during
from benchmark.executors.process import Worker
from benchmark.record import Record

if TYPE_CHECKING:
    from benchmark.cell import Cell, Group
    from benchmark.runner import RunContext

CELL_LIMIT_SECONDS = 900.0
TRAINING_LIMIT_SECONDS = 1800.0

_START_LIMIT_SECONDS = 300.0
_STARTS = 3
_LOOK_SECONDS = 0.25


def run(
    groups: Sequence[Group],
    context: RunContext,
    on_record: OnRecord,
    on_progress: OnProgress = lambda *_: None,
    wanted: Wanted = lambda _: True,
    *,
    logs: Path,
    workers: int = 2,
    cell_limit_seconds: float = CELL_LIMIT_SECONDS,
    training_limit_seconds: float = TRAINING_LIMIT_SECONDS,
) -> None:
    """Run groups in child processes; everything handed over is handed over in this process and thread.

    A group that fails, exceeds its limit or loses its process is split: cells that already have a record keep it, the
    others run one by one. A cell that fails by itself gets a record that says why.

    Args:
        groups: Started in this order, except that one waits while another process trains a victim it needs, too.
        context: Where and for which suite.
        on_record: Given each cell's record as it arrives, also those of cells that failed.
        on_progress: Called with a group, its stage and that stage's done fraction.
        wanted: Asked before a group starts; one that is not wanted any more is left out.
        logs: Folder for what the processes print.
        workers: How many processes.
        cell_limit_seconds: What an attack may take, times the cells of its group.
        training_limit_seconds: What training may take, times the victims of the group; does not count as attack.

    Raises:
        UserError: No process could be started.
        KeyboardInterrupt: The user stopped the run; processes are killed, records so far have been handed over.
    """
    schedule = _Schedule(context, on_record, on_progress, wanted, logs, cell_limit_seconds, training_limit_seconds)
    schedule.pending.extend(_job(group) for group in groups)
    try:
        schedule.run(workers)
    finally:
        schedule.stop()


@dataclass(eq=False)
class _Job:
    """A group and how far it has come.

    Attributes:
        group: The group.
        missing: Its cells without a record, by key.
        victims: Keys of all it needs to have trained.
        training: Those that are in training for it now.
        stage: None until a worker has it.
        deadline: Of the stage, by the monotonic clock.
    """

    group: Group
    missing: dict[str, Cell]
    victims: frozenset[str]
    training: frozenset[str] = frozenset()
    stage: Stage | None = None
    deadline: float = 0.0


@dataclass(eq=False)
class _Slot:
    """A place for one worker; the worker in it comes and goes, the log stays."""

    log: Path
    worker: Worker | None = None
    job: _Job | None = None
    ready: bool = False
    starts: int = 0


@dataclass
class _Schedule:
    context: RunContext
    on_record: OnRecord
    on_progress: OnProgress
    wanted: Wanted
    logs: Path
    cell_limit: float
    training_limit: float
    pending: deque[_Job] = field(default_factory=deque)
    slots: list[_Slot] = field(default_factory=list)
    trained: set[str] = field(default_factory=set)

    def run(self, workers: int) -> None:
        self.slots = [_Slot(self.logs / f"worker-{number}.log") for number in range(max(1, workers))]
        while self.pending or any(slot.job for slot in self.slots):
            for slot in self.slots:
                if slot.job is None:
                    self._assign(slot)
            busy = [slot for slot in self.slots if slot.job is not None]
            _wait_for_events(busy)
            for slot in busy:
                self._attend(slot)

    def stop(self) -> None:
        for slot in self.slots:
            _dismiss(slot)

    def _assign(self, slot: _Slot) -> None:
        job = self._next_job()
        if job is None:
            return
        job.training = job.victims - self.trained
        job.deadline = time.monotonic() + _START_LIMIT_SECONDS
        slot.job = job
        if slot.worker is None:
            slot.worker, slot.ready = Worker(slot.log), False
            slot.starts += 1
        elif slot.ready:
            self._hand_over(slot, job)

    def _next_job(self) -> _Job | None:
        """The first whose victims nobody else is training just now: two would train the same one twice."""
        in_training = frozenset[str]().union(*(slot.job.training for slot in self.slots if slot.job))
        for job in list(self.pending):
            if job.victims & in_training:
                continue
            self.pending.remove(job)
            if self.wanted(job.group):
                return job
        return None

    def _hand_over(self, slot: _Slot, job: _Job) -> None:
        assert slot.worker is not None
        slot.worker.mark_log()
        slot.worker.send({"cells": [cell.to_json() for cell in job.group.cells], "context": self.context.to_json()})
        self._enter(job, "training", self.training_limit * len(job.victims))

    def _enter(self, job: _Job, stage: Stage, limit: float) -> None:
        job.stage = stage
        job.deadline = time.monotonic() + limit

    def _attend(self, slot: _Slot) -> None:
        worker, job = slot.worker, slot.job
        assert worker is not None
        assert job is not None
        dead = worker.dead  # asked first: what it sent before it died is then all there to be read
        try:
            events = worker.receive()
        except ValueError:
            self._fail(slot, Failure(f"wrote into the harness's own pipe {during(job.stage or 'training')}"))
            return
        for event in events:
            self._heard(slot, job, event)
            if slot.job is not job:
                return
        if dead or worker.closed:
            self._died(slot, worker, job)
        elif time.monotonic() > job.deadline:
            self._too_late(slot, worker, job)

    def _heard(self, slot: _Slot, job: _Job, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            slot.ready, slot.starts = True, 0
            self._hand_over(slot, job)
        elif event["event"] == "progress":
            if event["stage"] == "attack" and job.stage != "attack":
                self.trained |= job.training
                job.training = frozenset()
                self._enter(job, "attack", self.cell_limit * len(job.group.cells))
            self.on_progress(job.group, event["stage"], event["fraction"])
        elif event["event"] == "record":
            record = Record.from_json(event["record"])
            if job.missing.pop(record.key, None) is not None:
                self.on_record(record)
        elif event["event"] == "failure":
            self._fail(slot, Failure(event["reason"], event["traceback"], event["contained"]))
        elif job.missing:
            self._fail(slot, Failure("the runner gave no record for it", contained=True))
        else:
            self._end(slot)

    def _died(self, slot: _Slot, worker: Worker, job: _Job) -> None:
        how = _dismiss(slot)
        if job.stage is not None:
            self._fail(slot, Failure(f"the worker process {how} {during(job.stage)}", worker.said()))
        elif slot.starts >= _STARTS:
            raise UserError(f"worker processes cannot start (the last one {how}); see {worker.log} and run again")
        else:
            # It never got as far as the group: that is not the group's fault.
            self.pending.appendleft(job)
            slot.job = None

    def _too_late(self, slot: _Slot, worker: Worker, job: _Job) -> None:
        if job.stage is None:
            raise UserError(f"a worker process did not start within {_START_LIMIT_SECONDS:.0f} s; see {worker.log}")
        worker.show_where()
        if job.stage == "training":
            limit = f"training limit of {self.training_limit:g} s a victim"
        else:
            limit = f"time limit of {self.cell_limit:g} s a cell"
        self._fail(slot, Failure(f"exceeded its {limit} {during(job.stage)}", worker.said()))

    def _fail(self, slot: _Slot, failure: Failure) -> None:
        assert slot.job is not None
        if not failure.contained:
            _dismiss(slot)
        rest = after_failure(slot.job.group, slot.job.missing, failure, self.context, self.on_record)
        self.pending.extendleft(_job(group) for group in reversed(rest))
        self._end(slot)

    def _end(self, slot: _Slot) -> None:
        assert slot.job is not None
        group, slot.job = slot.job.group, None
        self.on_progress(group, "ended", 1.0)


def _wait_for_events(slots: Sequence[_Slot]) -> None:
    # Not for ever: a process that dies is noticed by looking, because what it forked may keep its pipe open.
    with selectors.DefaultSelector() as selector:
        for slot in slots:
            if slot.worker is not None:
                selector.register(slot.worker.events, selectors.EVENT_READ)
        selector.select(_LOOK_SECONDS)


def _dismiss(slot: _Slot) -> str:
    how = slot.worker.stop() if slot.worker is not None else ""
    slot.worker, slot.ready = None, False
    return how


def _job(group: Group) -> _Job:
    specs = [spec for cell in group.cells for spec in (cell.victim, cell.victim.undefended())]
    victims = {key for spec in specs for key in (spec.weights_key(), *([spec.key()] if spec.watch else []))}
    return _Job(group, {cell.key(): cell for cell in group.cells}, frozenset(victims))
