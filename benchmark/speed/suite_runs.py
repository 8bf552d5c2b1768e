"""A small suite, run whole by the real runner again and again, and where its time went."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cell import Group
from benchmark.errors import UserError
from benchmark.leaderboard import leaderboard
from benchmark.plan import plan
from benchmark.report.tables import write
from benchmark.run import records_of, run_plan
from benchmark.runner import RunContext, train_victims
from benchmark.speed.processes import Turns
from benchmark.store import Store

if TYPE_CHECKING:
    from benchmark.cell import Plan
    from benchmark.executors.attempt import Stage
    from benchmark.record import Record
    from benchmark.suite_format import Suite


@dataclass(frozen=True)
class SuiteRuns:
    """Runs a suite in a new folder each turn; the work of a turn is the CPU seconds it took.

    What a whole suite shares is made beforehand, because a small one would have too much of it: start-up, undefended
    victims, and the classifier that reads reconstructions.

    Attributes:
        suite: What to run.
        folder: Where the folders of the turns are made and deleted.
    """

    suite: Suite
    folder: str

    def run(self, turns: Turns) -> None:
        """Run it until nobody waits for it any more; each turn tells `cells` and, as `rest`, see `run_whole`."""
        made = plan(self.suite)
        with tempfile.TemporaryDirectory(dir=self.folder) as shared:
            for cell in made.cells:
                train_victims(Group((replace(cell, victim=cell.victim.undefended()),)), _context(made, Path(shared)))
            turns.ready()
            while True:
                with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                    shutil.copytree(shared, Path(folder) / "victims")
                    began = time.process_time()
                    rest = run_whole(made, Path(folder))
                    turns.did(time.process_time() - began, cells=len(made.cells), rest=rest)


def run_whole(made: Plan, folder: Path) -> float:
    """Measure all cells of a plan in this process, write the tables, and tell the share that is not the work itself.

    Args:
        made: What to run.
        folder: For store, tables and, in `victims`, what is trained.

    Returns:
        The share of the time, 0 to 1, that neither training nor an attack took: reading what is cached, observing,
        scoring, evidence, store and report.

    Raises:
        UserError: A cell failed.
    """
    clock = _Clock()
    began = time.perf_counter()
    with Store(folder / "store.sqlite") as store:
        outcome = run_plan(
            made,
            store,
            _context(made, folder / "victims"),
            executor="inline",
            released={},
            on_record=clock.on_record,
            on_progress=clock.on_progress,
        )
        records = records_of(made, store, {})
    write(leaderboard(records, made), folder / made.suite)
    whole = time.perf_counter() - began
    if not outcome.complete:
        reasons = "; ".join({str(record.reason) for record in records if record.status == "failed"})
        raise UserError(f"speed, suite {made.suite}: {outcome.n_failed} cells failed ({reasons}); run it by itself")
    return (whole - clock.training - clock.attacking) / whole


@dataclass
class _Clock:
    """Adds up what training and attacks take, from what a run tells its display."""

    training: float = 0.0
    attacking: float = 0.0
    _group_began: float = field(default_factory=time.perf_counter)
    _trained: bool = False

    def on_progress(self, group: Group, stage: Stage, fraction: float) -> None:
        if stage == "attack" and not self._trained:
            self.training += time.perf_counter() - self._group_began
            self._trained = True
        elif stage == "ended":
            self._group_began, self._trained = time.perf_counter(), False

    def on_record(self, record: Record) -> None:
        self.attacking += float(record.run["seconds"])


def _context(made: Plan, cache: Path) -> RunContext:
    # No verdicts on planted clients: they are measured once for all suites.
    return RunContext(made.suite, made.suite_digest, str(cache), verdicts={})
