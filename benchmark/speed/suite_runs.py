"""A small suite, run whole by the real runner again and again, and where its time went."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cell import Group
from benchmark.context import RunContext
from benchmark.errors import UserError
from benchmark.leaderboard import leaderboard
from benchmark.plan import plan
from benchmark.report.tables import write
from benchmark.run import records_of, run_plan
from benchmark.runner import train_victims
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
        """Run it until nobody waits for it any more; each turn tells `cells` and the `Shares` of its time."""
        made = plan(self.suite)
        with tempfile.TemporaryDirectory(dir=self.folder) as shared:
            for cell in made.cells:
                train_victims(Group((replace(cell, victim=cell.victim.undefended()),)), _context(made, Path(shared)))
            _load_late()
            turns.ready()
            while True:
                with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                    shutil.copytree(shared, Path(folder) / "victims")
                    began = time.process_time()
                    shares = run_whole(made, Path(folder))
                    turns.did(time.process_time() - began, cells=len(made.cells), **asdict(shares))


@dataclass(frozen=True)
class Shares:
    """Where the time of a suite went, beside training and attacks; shares of it all, 0 to 1.

    Attributes:
        scored: Scores, records, store and tables.
        observed: What is done before an attack starts: victims read from the cache, views, evidence on the client.
    """

    scored: float
    observed: float


def run_whole(made: Plan, folder: Path) -> Shares:
    """Measure all cells of a plan in this process, write the tables, and tell what is not the work itself.

    Args:
        made: What to run.
        folder: For store, tables and, in `victims`, what is trained.

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
    measured = time.perf_counter()
    write(leaderboard(records, made), folder / made.suite)
    whole, report = time.perf_counter() - began, time.perf_counter() - measured
    if not outcome.complete:
        reasons = "; ".join({str(record.reason) for record in records if record.status == "failed"})
        raise UserError(f"speed, suite {made.suite}: {outcome.n_failed} cells failed ({reasons}); run it by itself")
    observed = whole - report - clock.training - clock.attacking - clock.scoring
    return Shares((clock.scoring + report) / whole, observed / whole)


@dataclass
class _Clock:
    """Adds up what training, attacks and scoring take, from what a run tells its display."""

    training: float = 0.0
    attacking: float = 0.0
    scoring: float = 0.0
    _stage_began: float = field(default_factory=time.perf_counter)
    _trained: bool = False

    def on_progress(self, group: Group, stage: Stage, fraction: float) -> None:
        now = time.perf_counter()
        if stage == "attack" and not self._trained:
            self.training += now - self._stage_began
            self._trained = True
        elif stage == "ended":
            self.scoring += now - self._stage_began
            self._trained = False
        elif stage != "attack" or fraction < 1:
            return
        # The last that an attack tells is its end; then comes scoring, then the next group.
        self._stage_began = now

    def on_record(self, record: Record) -> None:
        self.attacking += float(record.run["seconds"])


def _load_late() -> None:
    """Import what the first score and the first table would: it belongs to the start-up."""
    for name in ("opacus.accountants", "pandas.io.formats.style", "scipy.stats", "torch.utils.flop_counter"):
        import_module(name)
    # A package that loads its parts when they are asked for.
    _ = import_module("skimage.metrics").structural_similarity


def _context(made: Plan, cache: Path) -> RunContext:
    # No verdicts on planted clients: they are measured once for all suites.
    return RunContext(made.suite, made.suite_digest, str(cache), verdicts={})
