"""A place for one worker process: hands it a job, keeps the job's time limits, and says how it ended."""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError
from benchmark.executors.attempt import Failure, OnProgress, OnRecord, Stage, during
from benchmark.executors.process import Worker
from benchmark.record import Record

if TYPE_CHECKING:
    from benchmark.cell import Cell, Group

_START_LIMIT_SECONDS = 300.0
_STARTS = 3
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds, and how much memory; it changes what fails, never an outcome.

    Attributes:
        cell: An attack on one cell.
        training: The training of one victim.
        memory: Bytes that all worker processes on this machine may hold together; None for nine tenths of what it has.
    """

    cell: float = 900.0
    training: float = 1800.0
    memory: int | None = None


LIMITS = Limits()


@dataclass(eq=False)
class Job:
    """A group and how far it has come.

    Attributes:
        group: The group.
        context: Where and for which suite, as JSON values: whoever only hands it on need not load what reads it.
        limits: Of time, for training and attack.
        missing: Its cells without a record, by key.
        victims: Keys of all it needs to have trained.
        attack: Whether the victims are attacked, too, or only trained.
        stage: None until a worker has it.
        deadline: Of the stage, by the monotonic clock.
    """

    group: Group
    context: Mapping[str, Any]
    limits: Limits
    missing: dict[str, Cell]
    victims: frozenset[str]
    attack: bool = True
    stage: Stage | None = None
    deadline: float = 0.0


def job_of(group: Group, context: Mapping[str, Any], limits: Limits = LIMITS, *, attack: bool = True) -> Job:
    """The job of training a group's victims and, with `attack`, attacking them."""
    specs = [spec for cell in group.cells for spec in (cell.victim, cell.victim.undefended())]
    victims = {key for spec in specs for key in (spec.weights_key(), *([spec.key()] if spec.watch else []))}
    missing = {cell.key(): cell for cell in group.cells} if attack else {}
    return Job(group, context, limits, missing, frozenset(victims), attack)


@dataclass(frozen=True)
class Ended:
    """A job that is over.

    Attributes:
        job: It; `missing` says which cells got no record.
        failure: Why it did not get to its end, or None.
    """

    job: Job
    failure: Failure | None = None


@dataclass(eq=False)
class Slot:
    """A place for one worker process; the process in it comes and goes, the log stays.

    Attributes:
        log: File for what the process prints.
        threads: Of the process.
        cwd: Its working directory, or None for this process's.
        job: What it is busy with.
    """

    log: Path
    threads: int = 1
    cwd: Path | None = None
    job: Job | None = None
    _worker: Worker | None = None
    _ready: bool = False
    _starts: int = 0

    def begin(self, job: Job) -> None:
        """Take up a job; the slot must have none.

        Raises:
            UserError: No process can be started.
        """
        self.job = job
        job.deadline = time.monotonic() + _START_LIMIT_SECONDS
        if self._worker is None:
            self._start()
        elif self._ready:
            self._hand_over(self._worker, job)

    def attend(self, on_record: OnRecord, on_progress: OnProgress) -> Ended | None:
        """Hear what the process has to say of its job; the job's end, where it has come.

        Raises:
            UserError: The process does not start.
        """
        worker, job = self._worker, self.job
        assert worker is not None
        assert job is not None
        dead = worker.dead  # asked first: what it sent before it died is then all there to be read
        try:
            events = worker.receive()
        except ValueError:
            return self._end(Failure(f"wrote into the harness's own pipe {during(job.stage or 'training')}"))
        for event in events:
            ended = self._heard(worker, job, event, on_record, on_progress)
            if ended is not None:
                return ended
        if dead or worker.closed:
            return self._died(worker, job)
        if time.monotonic() > job.deadline:
            return self._too_late(worker, job)
        return None

    def stop(self) -> str:
        """Kill the process, if there is one; returns how it had ended, for a reason, if it had."""
        how = self._worker.stop() if self._worker is not None else ""
        self._worker, self._ready = None, False
        return how

    @property
    def events(self) -> int | None:
        """File descriptor to wait at, or None while there is no process."""
        return None if self._worker is None else self._worker.events

    def _start(self) -> None:
        self._worker, self._ready = Worker(self.log, self.threads, self.cwd), False
        self._starts += 1

    def _hand_over(self, worker: Worker, job: Job) -> None:
        worker.mark_log()
        worker.send(
            {
                "cells": [cell.to_json() for cell in job.group.cells],
                "context": job.context,
                "attack": job.attack,
            }
        )
        self._enter(job, "training", job.limits.training * len(job.victims))

    def _enter(self, job: Job, stage: Stage, limit: float) -> None:
        job.stage = stage
        job.deadline = time.monotonic() + limit

    def _heard(
        self, worker: Worker, job: Job, event: dict[str, Any], on_record: OnRecord, on_progress: OnProgress
    ) -> Ended | None:
        if event["event"] == "ready":
            self._ready, self._starts = True, 0
            self._hand_over(worker, job)
        elif event["event"] == "progress":
            if event["stage"] == "attack" and job.stage != "attack":
                self._enter(job, "attack", job.limits.cell * len(job.group.cells))
            on_progress(job.group, event["stage"], event["fraction"])
        elif event["event"] == "record":
            record = Record.from_json(event["record"])
            if job.missing.pop(record.key, None) is not None:
                on_record(record)
        elif event["event"] == "failure":
            return self._end(Failure(event["reason"], event["traceback"], event["contained"]))
        elif job.missing:
            return self._end(Failure("the runner gave no record for it", contained=True))
        else:
            return self._end()
        return None

    def _died(self, worker: Worker, job: Job) -> Ended | None:
        how = self.stop()
        if job.stage is not None:
            return self._end(Failure(f"the worker process {how} {during(job.stage)}", worker.said()))
        if self._starts >= _STARTS:
            last = (worker.said() or "").rpartition("\n")[2]
            raise UserError(
                f"worker processes cannot start (the last one {how}{f': {last}' if last else ''}); "
                f"see {worker.log} and run again"
            )
        # It never got as far as the group: that is not the group's fault.
        self._start()
        return None

    @property
    def process_group(self) -> int | None:
        """Its process and what that has started; None while there is none."""
        return None if self._worker is None else self._worker.process_group

    def evict(self, held: int, allowed: int) -> Ended | None:
        """End the job, because its process holds too much memory; None where none has been handed over yet.

        Args:
            held: Bytes that the process holds.
            allowed: Bytes that all processes may hold together.
        """
        worker, job = self._worker, self.job
        if worker is None or job is None or job.stage is None:
            return None
        worker.show_where()
        many, most = (f"{size / 1024**3:.1f} GiB" for size in (held, allowed))
        reason = f"held {many} of the {most} of memory that all workers may hold together {during(job.stage)}"
        return self._end(Failure(reason, worker.said()))

    def _too_late(self, worker: Worker, job: Job) -> Ended:
        if job.stage is None:
            raise UserError(f"a worker process did not start within {_START_LIMIT_SECONDS:.0f} s; see {worker.log}")
        worker.show_where()
        if job.stage == "training":
            limit = f"training limit of {job.limits.training:g} s a victim"
        else:
            limit = f"time limit of {job.limits.cell:g} s a cell"
        return self._end(Failure(f"exceeded its {limit} {during(job.stage)}", worker.said()))

    def _end(self, failure: Failure | None = None) -> Ended:
        assert self.job is not None
        job, self.job = self.job, None
        if failure is not None and not failure.contained:
            self.stop()
        return Ended(job, failure)


def wait_for_events(slots: Sequence[Slot]) -> None:
    """Return once one of the slots' processes has something to say, or a moment has passed."""
    # Not for ever: a process that dies is noticed by looking, because what it forked may keep its pipe open.
    with selectors.DefaultSelector() as selector:
        for slot in slots:
            if slot.events is not None:
                selector.register(slot.events, selectors.EVENT_READ)
        selector.select(_LOOK_SECONDS)
