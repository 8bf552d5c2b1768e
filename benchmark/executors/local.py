"""Runs groups in persistent child processes, with a time limit, so that a bad cell takes nobody along."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.executors.attempt import OnProgress, OnRecord, Wanted, after_failure
from benchmark.executors.held import allowed, held_by_groups
from benchmark.executors.slot import LIMITS, Ended, Job, Limits, Slot, job_of, wait_for_events

if TYPE_CHECKING:
    from benchmark.cell import Group
    from benchmark.context import RunContext

_WEIGH_SECONDS = 0.5


def run(
    groups: Sequence[Group],
    context: RunContext,
    on_record: OnRecord,
    on_progress: OnProgress = lambda *_: None,
    wanted: Wanted = lambda _: True,
    *,
    logs: Path,
    workers: int = 2,
    threads: int = 1,
    limits: Limits = LIMITS,
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
        threads: Of each process; more than the cores have room for run many times slower.
        limits: What an attack may take, times the cells of its group; what training may take, times the victims
            of the group, which does not count as attack; and how much memory all processes may hold.

    Raises:
        UserError: No process could be started.
        KeyboardInterrupt: The user stopped the run; processes are killed, records so far have been handed over.
    """
    slots = [Slot(logs / f"worker-{number}.log", threads) for number in range(max(1, workers))]
    schedule = _Schedule(context, limits, on_record, on_progress, wanted, slots)
    schedule.add(groups)
    try:
        schedule.run()
    finally:
        for slot in slots:
            slot.stop()


@dataclass
class _Schedule:
    context: RunContext
    limits: Limits
    on_record: OnRecord
    on_progress: OnProgress
    wanted: Wanted
    slots: list[Slot]
    pending: deque[Job] = field(default_factory=deque)
    trained: set[str] = field(default_factory=set)
    weighed: float = 0.0

    def add(self, groups: Sequence[Group]) -> None:
        jobs = [job_of(group, self.context.to_json(), self.limits) for group in groups]
        self.pending.extendleft(reversed(jobs))

    def run(self) -> None:
        while self.pending or any(slot.job for slot in self.slots):
            for slot in self.slots:
                if slot.job is None and (job := self._next_job()) is not None:
                    slot.begin(job)
            busy = [(slot, slot.job) for slot in self.slots if slot.job is not None]
            wait_for_events([slot for slot, _ in busy])
            for slot, job in busy:
                ended = slot.attend(self.on_record, self.on_progress)
                if job.stage == "attack":
                    self.trained |= job.victims
                if ended is not None:
                    self._end(ended)
            self._weigh()

    def _next_job(self) -> Job | None:
        """The first whose victims nobody else is training just now: two would train the same one twice."""
        training = [slot.job.victims for slot in self.slots if slot.job and slot.job.stage != "attack"]
        in_training = frozenset[str]().union(*training) - self.trained
        for job in list(self.pending):
            if job.victims & in_training:
                continue
            self.pending.remove(job)
            if self.wanted(job.group):
                return job
        return None

    def _weigh(self) -> None:
        """Before memory runs out, and the system takes whom it likes, end the job whose process holds the most."""
        now = time.monotonic()
        if now - self.weighed < _WEIGH_SECONDS:
            return
        self.weighed = now
        most = allowed() if self.limits.memory is None else self.limits.memory
        groups = {slot.process_group: slot for slot in self.slots if slot.process_group is not None}
        held = held_by_groups(groups)
        if sum(held.values()) > most:
            largest = max(held, key=lambda group: held[group])
            ended = groups[largest].evict(held[largest], most)
            if ended is not None:
                self._end(ended)

    def _end(self, ended: Ended) -> None:
        job, failure = ended.job, ended.failure
        if failure is not None:
            rest = after_failure(job.group, job.missing, failure, self.context, self.on_record)
            self.add(rest)
        self.on_progress(job.group, "ended", 1.0)
