"""`speed`: measures how fast this program is, beside what it is compared with, and writes the table."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmark.errors import UserError
from benchmark.executors.cores import cores
from benchmark.files import write_atomically
from benchmark.parameters import nearest
from benchmark.speed import joint, suite_cost, throughput, waiting
from benchmark.speed.line import BY_NAME, LINES, Measured
from benchmark.speed.page import table, written_into
from benchmark.speed.published import check_reference
from benchmark.speed.setting import Setting, machine

Measure = Callable[[Setting], list[Measured]]
CIFAR = ("cifar", "cifar-bfloat16")
MEASURES: dict[str, Measure] = {
    "mnist": throughput.mnist,
    **dict.fromkeys(CIFAR, throughput.cifar),
    "joint": joint.joint,
    "lanes": throughput.lanes,
    "strength": suite_cost.strength,
    "complete": waiting.complete,
    "share": suite_cost.share,
    "loading": waiting.loading,
}


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Attributes:
        only: Names of lines, or none for all.
        file: Where the table is written, or None.
        reference: Checkout of the published code, or None.
        data_root: Folder of the data sets, or None.
        repeats: Turns that count.
        workers: Processes on the side that uses all cores, or None for one a core.
    """

    only: Sequence[str] = ()
    file: Path | None = None
    reference: Path | None = None
    data_root: Path | None = None
    repeats: int = 5
    workers: int | None = None


def speed(asked: Asked) -> int:
    """Measure, print the table and write it.

    Returns:
        0, met or not: floors hold on the machine that they were set for.

    Raises:
        UserError: An option is wrong, or something that is timed failed.
    """
    measures = chosen(asked.only)
    if asked.file is not None and len(measures) < len(_all()):
        raise UserError(f"-o {asked.file}: a page has all lines of one run; leave out -o, or --only")
    page = _page(asked.file)
    if asked.reference is not None:
        check_reference(asked.reference)
    workers = asked.workers or cores()
    facts = machine(workers)
    console = Console(stderr=True)
    began = time.perf_counter()
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="unsplit-bench-speed-") as folder:
        root = None if asked.data_root is None else asked.data_root.expanduser().absolute()
        setting = Setting(Path(folder), asked.repeats, workers, asked.reference, root)
        for names, measure in measures:
            started = time.perf_counter()
            found += measure(setting)
            took = f"{', '.join(names)}: measured in {time.perf_counter() - started:.0f} s"
            console.print(took, markup=False, highlight=False, soft_wrap=True)
    facts.append(("measured in", f"{time.perf_counter() - began:.0f} s, {asked.repeats} repeats"))
    text = table(found, facts, setting.loop)
    sys.stdout.write(text)
    if asked.file is not None:
        write_atomically(asked.file, written_into(page, text, str(asked.file)).encode())
    return 0


def chosen(only: Sequence[str]) -> list[tuple[tuple[str, ...], Measure]]:
    """The lines that are measured together, and what measures them, in the order of the table.

    Raises:
        UserError: There is no such line.
    """
    for name in only:
        if name not in BY_NAME:
            raise UserError(
                f"--only {name}: there is no such line; choose from: {', '.join(BY_NAME)}{nearest(name, list(BY_NAME))}"
            )
    if not only:
        return _all()
    found: list[tuple[tuple[str, ...], Measure]] = []
    for names, measure in _all():
        wanted = tuple(name for name in names if name in only)
        if wanted:
            found.append((wanted, partial(throughput.cifar, wanted=wanted) if names == CIFAR else measure))
    return found


def _all() -> list[tuple[tuple[str, ...], Measure]]:
    single = [((line.name,), MEASURES[line.name]) for line in LINES if line.name not in CIFAR]
    return [single[0], (CIFAR, throughput.cifar), *single[1:]]


def _page(file: Path | None) -> str:
    """What the file holds; looked at before minutes are spent."""
    if file is None or not file.exists():
        return ""
    try:
        page = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"-o {file}: cannot be read ({error}); give another name") from None
    written_into(page, "", str(file))
    return page
