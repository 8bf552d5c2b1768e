"""Carries out a plan: takes what is stored or released, runs the rest, keeps each record as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cell import Cell, Group, Plan
from benchmark.errors import UserError
from benchmark.executors import inline, local, ray
from benchmark.executors.attempt import OnProgress
from benchmark.executors.cores import default_workers, threads_asked_for
from benchmark.executors.ray_cluster import RAY_OPTIONS
from benchmark.executors.ray_cluster import RayOptions as RayOptions
from benchmark.executors.slot import LIMITS
from benchmark.executors.slot import Limits as Limits
from benchmark.record import Record
from benchmark.released import read_released

if TYPE_CHECKING:
    from benchmark.context import RunContext
    from benchmark.options import ExecutorName
    from benchmark.planted_run import OnPlanted
    from benchmark.store import Store


class InterruptedRunError(UserError):
    """The user stopped the run; what was done is in the store."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        n_planned: Cells the plan asks for.
        n_done: Those that are done now.
        n_failed: Those that could not be measured.
        n_skipped: Those that were left out on purpose.
        n_reused: Those that were there before, in the store or released; part of `n_done` or `n_skipped`.
    """

    n_planned: int
    n_done: int
    n_failed: int
    n_skipped: int
    n_reused: int

    @property
    def complete(self) -> bool:
        """Whether no cell failed or is missing."""
        return self.n_done + self.n_skipped == self.n_planned


def run_plan(
    plan: Plan,
    store: Store,
    context: RunContext,
    *,
    executor: ExecutorName = "local",
    workers: int | None = None,
    cluster: RayOptions = RAY_OPTIONS,
    limits: Limits = LIMITS,
    logs: Path | None = None,
    retry_failed: bool = True,
    released: Mapping[str, Record] | None = None,
    on_record: Callable[[Record], None] = lambda _: None,
    on_progress: OnProgress = lambda *_: None,
    on_planted: OnPlanted = lambda *_: None,
) -> RunOutcome:
    """Measure every cell of a plan that is not measured yet.

    A group that lacks some cells is run whole, so that a resumed run equals an undisturbed one; only records of missing
    cells are kept. Where all that it lacks has failed before, those cells run one by one.

    Args:
        plan: What to measure.
        store: Where records are looked up and kept.
        context: Where and for which suite.
        executor: `local` (child processes), `inline` (this process) or `ray`. A group with a plug-in that lives only in
            this process is run inline in any case.
        workers: Child processes; None for one a core, or as many as OMP_NUM_THREADS threads each leave room for.
        cluster: Which Ray cluster, and what a task takes there.
        limits: Of time, in child processes.
        logs: Folder for what child processes print; None for `logs` beside the store.
        retry_failed: Whether cells that failed before are run again.
        released: Records that need not be computed, by key; None for those that come with the package.
        on_record: Called with each record once it is stored.
        on_progress: Called with a group, its stage and that stage's done fraction.
        on_planted: Called while an attack that nobody has a verdict of meets its planted clients, before the cells.

    Raises:
        InterruptedRunError: The user stopped the run.
        UserError: The store cannot be written, or no process could be started.
    """
    threads = threads_asked_for()
    run = _Run(plan, store, context, retry_failed, on_record)
    n_reused = run.reuse(released)
    here: list[Group] = []
    elsewhere: list[Group] = []
    for group in run.groups():
        (here if executor == "inline" or _lives_here(group) else elsewhere).append(group)
    if not here and not elsewhere:
        return run.outcome(n_reused)
    # Imported late: it brings PyTorch, and a run that has nothing to do needs none.
    from benchmark.planted_run import with_verdicts

    logs = logs or store.path.parent / "logs"
    try:
        context = with_verdicts(context, [*here, *elsewhere], logs, here=executor == "inline", on_planted=on_planted)
        if executor == "ray":
            ray.run(elsewhere, context, run.keep, on_progress, run.wanted, options=cluster, limits=limits)
        else:
            local.run(
                elsewhere,
                context,
                run.keep,
                on_progress,
                run.wanted,
                logs=logs,
                workers=workers or default_workers(threads),
                threads=threads,
                limits=limits,
            )
        inline.run(here, context, run.keep, on_progress, run.wanted)
    except KeyboardInterrupt:
        kept = run.outcome(n_reused)
        raise InterruptedRunError(
            f"interrupted: {kept.n_done} of {kept.n_planned} cells are kept in {store.path}; "
            "give the same command again to go on"
        ) from None
    return run.outcome(n_reused)


def records_of(plan: Plan, store: Store, released: Mapping[str, Record] | None = None) -> list[Record]:
    """The records there are of a plan's cells, in its order, filed under its suite; nothing is run or written.

    Args:
        plan: Whose cells.
        store: Looked up first.
        released: Looked up for the rest; None for what comes with the package.
    """
    keys = _keys(plan)
    found = store.get(keys, plan.suite_digest)
    lacking = [key for key in keys if key not in found or found[key].status == "failed"]
    if lacking:
        found |= {key: record for key, record in store.get(lacking).items() if record.status != "failed"}
        released = read_released(plan.suite) if released is None else released
        found |= _usable(released, [key for key in lacking if key not in found or found[key].status == "failed"])
    return [_filed(found[key], plan) for key in keys if key in found]


class _Run:
    def __init__(
        self, plan: Plan, store: Store, context: RunContext, retry: bool, on_record: Callable[[Record], None]
    ) -> None:
        self._plan = plan
        self._store = store
        self._retry = retry
        self._on_record = on_record
        self._missing: dict[str, Cell] = {cell.key(): cell for cell in plan.cells}
        self._failed_before: set[str] = set()

    def reuse(self, released: Mapping[str, Record] | None) -> int:
        """Take what is stored, under whichever suite, or released; returns how many cells that settles."""
        before = len(self._missing)
        filed = self._store.get(self._missing, self._plan.suite_digest)
        self._failed_before = {key for key, record in filed.items() if record.status == "failed"}
        self._settle(key for key, record in filed.items() if record.status != "failed")
        for key, record in self._store.get(self._missing).items():
            if record.status != "failed":
                self._copy([record], f"suite {record.suite} {record.suite_digest[:12]}")
                self._settle([key])
        if self._missing:
            known = read_released(self._plan.suite) if released is None else released
            usable = _usable(known, self._missing)
            self._copy(usable.values(), f"released {self._plan.suite}")
            self._settle(usable)
        return before - len(self._missing)

    def groups(self) -> list[Group]:
        """What is to be run, in the plan's order."""
        chosen: list[Group] = []
        for group in self._plan.groups:
            missing = {key: cell for cell in group.cells if (key := cell.key()) in self._missing}
            if missing.keys() <= self._failed_before:
                if self._retry:
                    chosen.extend(Group((cell,)) for cell in missing.values())
            else:
                chosen.append(group)
        return chosen

    def wanted(self, group: Group) -> bool:
        """Whether a group still lacks a cell: another run on the same store may have been faster."""
        lacking = [key for cell in group.cells if (key := cell.key()) in self._missing]
        found = self._store.get(lacking, self._plan.suite_digest)
        self._settle(key for key, record in found.items() if record.status != "failed")
        return any(key in self._missing for key in lacking)

    def keep(self, record: Record) -> None:
        """Store the record of a cell that is missing."""
        if record.key in self._missing:
            self._store.put(record)
            self._settle([record.key])
            self._on_record(record)

    def outcome(self, n_reused: int) -> RunOutcome:
        """What the store holds of the plan now."""
        keys = _keys(self._plan)
        statuses = [record.status for record in self._store.get(keys, self._plan.suite_digest).values()]
        return RunOutcome(
            len(keys), statuses.count("done"), statuses.count("failed"), statuses.count("skipped"), n_reused
        )

    def _copy(self, records: Iterable[Record], origin: str) -> None:
        self._store.put_all([_filed(record, self._plan) for record in records], origin)

    def _settle(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._missing.pop(key, None)


def _keys(plan: Plan) -> list[str]:
    return list(dict.fromkeys(cell.key() for cell in plan.cells))


def _usable(records: Mapping[str, Record], keys: Iterable[str]) -> dict[str, Record]:
    return {key: records[key] for key in keys if key in records and records[key].status != "failed"}


def _filed(record: Record, plan: Plan) -> Record:
    # A key stands for everything that can change the outcome: which suite asked for it does not.
    return replace(record, suite=plan.suite, suite_digest=plan.suite_digest)


def _lives_here(group: Group) -> bool:
    refs = (ref for cell in group.cells for ref in (cell.attack, cell.victim.model, *cell.victim.defenses))
    return any(ref.source == "live" for ref in refs)
