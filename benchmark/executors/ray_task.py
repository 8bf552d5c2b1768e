"""What a Ray worker does with a task: runs one group in a child process of its own, and sends back what came of it.

The plug-ins run in the child, under the same time limits as with the local executor, so that whatever they do to their
process is a failed record. What happens to the Ray worker itself or to its node is Ray's to repair: it runs the task
again.
Nothing here loads torch or Ray, and everything that goes over the wire is JSON values and bytes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from benchmark.cell import Cell, Group
from benchmark.executors.shipping import unpacked
from benchmark.executors.slot import Limits, Slot, job_of, wait_for_events
from benchmark.files import write_atomically

if TYPE_CHECKING:
    from benchmark.executors.attempt import Failure, Stage
    from benchmark.record import Record

_REPORT_SECONDS = 0.5

Files = dict[str, bytes]
Where = tuple["Stage", float]


class Task(TypedDict):
    """One group, as it is sent.

    Attributes:
        cells: The group's.
        context: Of the run; its folders are replaced by the task's own.
        attack: Whether the victims are attacked, too, or only trained.
        packed: Where plug-ins lie in what was shipped; see `benchmark.executors.shipping.pack`.
        limits: Of time, as `Limits` has them.
        threads: Of the child process.
        cwd: Working directory of the command that was given; used where this node has it, too.
    """

    cells: list[dict[str, Any]]
    context: dict[str, Any]
    attack: bool
    packed: dict[str, str]
    limits: dict[str, Any]
    threads: int
    cwd: str


class Outcome(TypedDict):
    """What came of it.

    Attributes:
        records: As `Record.to_json` wrote them.
        failure: What stopped it, as `Failure` has it, or None.
        made: What it added to the cache of victims, by path in it.
        images: Reconstructions it kept, by path in their folder.
    """

    records: list[dict[str, Any]]
    failure: dict[str, Any] | None
    made: Files
    images: Files


class Board:
    """How far running tasks are: the actor that they tell and the driver asks."""

    def __init__(self) -> None:
        self._tasks: dict[int, Where] = {}

    def report(self, number: int, stage: Stage, fraction: float) -> None:
        """A task has come as far as `fraction` of `stage`."""
        self._tasks[number] = (stage, fraction)

    def progress(self, alive: list[int]) -> dict[int, Where]:
        """How far those of these tasks are that have told; the others are forgotten."""
        self._tasks = {number: where for number, where in self._tasks.items() if number in alive}
        return self._tasks


def carry_out(number: int, task: Task, board: Any, *handed: Files) -> Outcome:
    """Run a task in this Ray worker, whose working folder holds what was shipped.

    Args:
        number: Of the task, for the board.
        task: What to do.
        board: Handle of the actor `Board`.
        *handed: What it finds in its cache of victims.

    Raises:
        UserError: No child process could be started, or this node's disk cannot be written to.
    """
    place = Path.cwd()
    report = _throttled(lambda stage, fraction: board.report.remote(number, stage, fraction))
    group = unpacked(Group(tuple(Cell.from_json(cell) for cell in task["cells"])), place, task["packed"])
    with tempfile.TemporaryDirectory(prefix="task-", dir=place) as folder:
        cache, images = Path(folder, "victims"), Path(folder, "images")
        known = {name: content for files in handed for name, content in files.items()}
        for name, content in known.items():
            write_atomically(cache / name, content)
        context = {
            **task["context"],
            "cache": str(cache),
            "images": None if task["context"]["images"] is None else str(images),
        }
        records: list[Record] = []
        failure = _attempt(group, context, task, records.append, report)
        return {
            "records": [record.to_json() for record in records],
            "failure": None if failure is None else vars(failure),
            "made": {name: content for name, content in read_files(cache).items() if name not in known},
            "images": read_files(images),
        }


def read_files(folder: Path) -> Files:
    """Contents of all files below a folder, by their path in it; of none where there is no folder."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _attempt(
    group: Group,
    context: Mapping[str, Any],
    task: Task,
    on_record: Callable[[Record], None],
    report: Callable[[Stage, float], None],
) -> Failure | None:
    slot = _slot(task["threads"], task["cwd"])
    slot.begin(job_of(group, context, Limits(**task["limits"]), attack=task["attack"]))
    try:
        while True:
            wait_for_events([slot])
            ended = slot.attend(on_record, lambda _, stage, fraction: report(stage, fraction))
            if ended is not None:
                return ended.failure
    except BaseException:
        # Cancelled, or no child could be started: what is half done must not meet the next task.
        _dismiss(slot)
        raise


@dataclass(frozen=True)
class _Terms:
    """What a child process is started with; it serves further tasks only on the same terms."""

    threads: int
    cwd: str
    gpus: str | None


_slots: dict[_Terms, Slot] = {}


def _slot(threads: int, cwd: str) -> Slot:
    """The place of this Ray worker's child process, which stays from task to task."""
    # Ray tells a worker its GPUs anew with each task; a child keeps those it was started with.
    terms = _Terms(threads, cwd, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if terms not in _slots:
        for slot in list(_slots.values()):
            _dismiss(slot)
        log = Path.cwd() / "logs" / f"worker-{os.getpid()}.log"
        _slots[terms] = Slot(log, threads, Path(cwd) if os.path.isdir(cwd) else None)
    return _slots[terms]


def _dismiss(slot: Slot) -> None:
    slot.stop()
    for terms in [terms for terms, kept in _slots.items() if kept is slot]:
        del _slots[terms]


def _throttled(report: Callable[[Stage, float], object]) -> Callable[[Stage, float], None]:
    last: tuple[Stage | None, float] = (None, 0.0)

    def throttled(stage: Stage, fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= _REPORT_SECONDS:
            last = (stage, now)
            report(stage, fraction)

    return throttled
