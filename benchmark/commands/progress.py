"""Shows how far a run is: bars on a terminal, one line a cell elsewhere. Everything goes to standard error."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmark.report.names import full_name

if TYPE_CHECKING:
    from benchmark.cell import Cell, Group, PluginRef
    from benchmark.executors.attempt import Stage
    from benchmark.planted_verdicts import Verdict
    from benchmark.record import Axes, Record

_BARS = 1000


class Display:
    """What a run shows; hand `on_record` and `on_progress` to `benchmark.run.run_plan`.

    Args:
        title: What is run.
        n_planned: Cells in all.
        n_there: Those that need not be run.
        console: Where to; standard error by default.
    """

    def __init__(self, title: str, n_planned: int, n_there: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._n_planned = n_planned
        self._n_done = n_there
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._all = self._progress.add_task(f"{escape(title)}: cells", total=n_planned, completed=n_there)
        self._running: dict[int, TaskID] = {}
        self._planted: list[PluginRef] = []
        self._meeting = self._all
        if n_there < n_planned:
            known = f", {n_there} of them known" if n_there else ""
            self._console.print(f"{title}: {n_planned} cells{known}", markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_record(self, record: Record) -> None:
        """Show that a cell has ended."""
        self._n_done += 1
        self._progress.update(self._all, completed=self._n_done)
        if record.status == "failed" or not self._console.is_terminal:
            seconds = record.run.get("seconds")
            took = f" ({seconds:.1f} s)" if isinstance(seconds, float) and seconds > 0 else ""
            why = f": {record.reason}" if record.reason else ""
            width = len(str(self._n_planned))
            line = f"[{self._n_done:{width}}/{self._n_planned}] {record.status} {cell_text(record.axes)}{took}{why}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_progress(self, group: Group, stage: Stage, fraction: float) -> None:
        """Show how far a group is; `ended` takes it away."""
        if stage == "ended":
            task = self._running.pop(id(group), None)
            if task is not None:
                self._progress.remove_task(task)
            return
        text = f"  {stage} {group_text(group)}"
        if id(group) not in self._running:
            self._running[id(group)] = self._progress.add_task("", total=_BARS)
        self._progress.update(
            self._running[id(group)], description=escape(text), completed=round(_BARS * min(max(fraction, 0.0), 1.0))
        )

    def on_planted(self, ref: PluginRef, fraction: float, verdict: Verdict | None) -> None:
        """Show an attack that meets its planted clients, and what came of it."""
        text = f"planted clients of {full_name(ref.name, ref.changed)}"
        if ref not in self._planted:
            self._planted.append(ref)
            self._console.print(f"{text}: no verdict yet, measured once", markup=False, highlight=False, soft_wrap=True)
            self._meeting = self._progress.add_task(escape(f"  {text}"), total=_BARS)
        self._progress.update(self._meeting, completed=round(_BARS * fraction))
        if verdict is not None:
            self._progress.remove_task(self._meeting)
            worst = "" if verdict.worst is None else f" ({verdict.worst.sentence()})"
            line = f"{text}: {'passed' if verdict.passed else 'FAILED'}{worst}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def cell_text(axes: Axes) -> str:
    """A cell in one line, short: defense, cut, seed, attack, phase."""
    defense = axes.defense + (f" ({axes.params})" if axes.params else "")
    attack = axes.attack + (f" ({axes.attack_params})" if axes.attack_params else "")
    where = axes.cut if axes.cut == axes.cut_reached else f"{axes.cut}->{axes.cut_reached}"
    phase = f", {axes.phase}" if axes.phase == "training" else ""
    return f"{axes.dataset} {axes.model} {where} {defense}, seed {axes.seed}: {attack}{phase}"


def group_text(group: Group) -> str:
    """A group in one line, short: defenses, cut, attack and how many lanes."""
    first: Cell = group.cells[0]
    defenses = " + ".join(defense.name for defense in first.victim.defenses) or "none"
    return f"{first.attack.name} on {defenses} at {first.victim.cut_reached}, {len(group.cells)} victims"
