"""The commands that run a suite and those that read its results; each returns the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmark.baseline import make_baseline, measure_tolerance, read_baseline, write_baseline
from benchmark.commands.session import (
    known_records,
    measured,
    measured_perturbed,
    opened_store,
    planned,
    released_for,
)
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.gate import compare, exit_code
from benchmark.leaderboard import images_frame, leaderboard
from benchmark.options import Options
from benchmark.released import write_released
from benchmark.report.tables import render, to_csv, to_parquet, write
from benchmark.report.terminal import print_leaderboard, to_verdicts
from benchmark.run import RunOutcome, records_of

if TYPE_CHECKING:
    from benchmark.record import Record


def run(options: Options) -> int:
    """Run what is missing, print the leaderboard, write its files; 0 if every cell is done, else 2."""
    suite, made = planned(options)
    with opened_store(options.output) as store:
        outcome = measured(options, suite, made, store)
        records = known_records(made, store, released_for(options))
    board = leaderboard(records, made)
    folder = options.output / suite.name
    paths = write(board, folder)
    print_leaderboard(board, _wide_enough())
    asked = {cell.key() for cell in made.cells}
    failed = [record for record in records if record.status == "failed" and record.key in asked]
    _say_outcome(outcome, failed, options.output)
    _say(f"Tables: {folder} ({', '.join(path.name for path in paths)}); records: {store.path}")
    return 0 if outcome.complete else 2


def show_leaderboard(options: Options, form: str, folder: Path | None, attacks: bool) -> int:
    """The tables from what is stored or released: one format to standard output, or all into a folder."""
    _, made = planned(options, to_read=True)
    with opened_store(options.output, write=False) as store:
        board = leaderboard(known_records(made, store), made)
    if folder is not None:
        for path in write(board, folder):
            _say(str(path))
    elif attacks and form == "csv":
        sys.stdout.write(to_csv(board.attacks))
    elif attacks and form != "md":
        raise UserError(f"--attacks --format {form}: the table of attacks is csv or part of md and json; choose csv")
    else:
        sys.stdout.write(render(board, form))
    return 0


def show_records(options: Options, form: str, file: Path | None) -> int:
    """Everything per image, as CSV or Parquet."""
    if form not in ("csv", "parquet"):
        raise UserError(f"--format {form}: no such format; choose csv or parquet")
    if form == "parquet" and file is None:
        raise UserError("--format parquet: is not text; name a file with -o FILE")
    _, made = planned(options, to_read=True)
    with opened_store(options.output, write=False) as store:
        frame = images_frame(known_records(made, store), made)
    content = to_csv(frame).encode() if form == "csv" else to_parquet(frame)
    if file is None:
        sys.stdout.write(content.decode())
    else:
        write_atomically(file, content)
        _say(str(file))
    return 0


def export(options: Options, folder: Path | None) -> int:
    """Write the suite's records, also of an unfinished run, with their manifest and tables, for release."""
    suite, made = planned(options, to_read=True)
    target = folder or Path("results") / suite.name
    with opened_store(options.output, write=False) as store:
        records = records_of(made, store)
        others = len(known_records(made, store)) - len(records)
    if not records:
        raise UserError(f"suite {suite.name}: there are no records in {options.output}; run it first")
    manifest = write_released(records, target, f"unsplit-bench export {suite.name}")
    write(leaderboard(records, made), target)
    counts = ", ".join(f"{count} {status}" for status, count in manifest["records"].items())
    _say(f"{target}: {counts} of {len(made.cells)} planned")
    if others:
        _say(f"{others} records of plug-ins from outside the suite are left out; name these with --defense or --attack")
    return 0


def baseline(options: Options, file: Path, measure: bool) -> int:
    """Run what is missing and write what later runs are compared with; 2 if something could not be measured."""
    suite, made = planned(options)
    with opened_store(options.output) as store:
        outcome = measured(options, suite, made, store)
        records = records_of(made, store)
    tolerances = None
    if measure:
        moved = measured_perturbed(options, suite, made, options.output / "perturbed")
        tolerances = measure_tolerance(records, moved)
    write_baseline(make_baseline(records, tolerances, made), file)
    _say_outcome(outcome, [record for record in records if record.status == "failed"], options.output)
    _say(str(file))
    return 0 if outcome.complete else 2


def check(options: Options, file: Path) -> int:
    """Run what is missing and compare with a baseline; 0 nothing worse, 1 a regression, 2 not measurable."""
    known = read_baseline(file)
    suite, made = planned(options)
    with opened_store(options.output) as store:
        measured(options, suite, made, store)
        records = records_of(made, store, released_for(options))
    verdicts = compare(known, records, made)
    _wide_enough().print(to_verdicts(verdicts))
    return exit_code(verdicts)


def _wide_enough() -> Console:
    # A file or a pipe has no width of its own: let no column fold there.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _say(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _say_outcome(outcome: RunOutcome, failed: Sequence[Record], output: Path) -> None:
    reused = f", {outcome.n_reused} of them known before" if outcome.n_reused else ""
    skipped = f", {outcome.n_skipped} skipped" if outcome.n_skipped else ""
    _say(f"{outcome.n_done} of {outcome.n_planned} cells done{reused}{skipped}")
    if outcome.complete:
        return
    _say(f"{outcome.n_planned - outcome.n_done - outcome.n_skipped} could not be measured; the next run tries again:")
    for record in failed[:10]:
        axes = record.axes
        _say(f"  {axes.defense} at {axes.cut}, seed {axes.seed}, {axes.attack}: {record.reason}")
    if len(failed) > 10:
        _say(f"  and {len(failed) - 10} more: unsplit-bench records, column reason; logs in {output}/logs")
