"""The leaderboard and the gate's verdicts on a terminal: the columns that matter, fitted to its width."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from benchmark.flags import meaning
from benchmark.gate import Verdict, exit_code
from benchmark.leaderboard import Leaderboard
from benchmark.report.cells import text
from benchmark.report.names import attack_names, defense_names, legend
from benchmark.report.tables import BROKEN_NOTE, FRONT_NOTE, GOAL_TITLES, RATES_NOTE, by_goal, printed
from benchmark.report.verdicts import short_cells

SHOWN = {
    "rank": "#",
    "tier": "tier",
    "defense": "defense",
    "cut": "cut",
    "utility": "utility",
    "drop": "drop",
    "leakage": "leakage [95 %]",
    "worst_attack": "worst attack",
    "identified (chance)": "identified",
    "recognised (truth)": "recognised",
    "done": "done",
    "flags": "flags",
}
NUMBERS = ("rank", "tier", "utility", "drop", "done")
FOLDED = ("defense", "worst_attack", "flags")
# What a narrow terminal can do without, the least first: leakage ranks, the rates only illustrate it; the tier follows
# from the drop, `incomplete` tells what is not done.
SPARED = ("recognised (truth)", "identified (chance)", "cut", "tier", "utility", "done")
# Capitals leave a row unranked.
LETTERS = {
    "incomplete": "I",
    "constant_or_nan": "N",
    "no_room": "R",
    "no_control": "K",
    "utility_at_majority": "U",
    "memorises_test": "M",
    "epsilon_without_ground": "G",
    "claim_refuted": "C",
    "stance_missing": "S",
    "not_established": "E",
    "fails_undefended": "F",
    "planted_client_failed": "P",
    "reused_noise": "Z",
    "randomised_output": "r",
    "gradient_masked": "m",
    "auxiliary_overlap": "a",
    "phase_missing": "p",
    "planted_failed_by_some": "s",
    "not_converged": "c",
    "indicative": "i",
    "leakage_below_control": "b",
    "identified_anyway": "d",
    "weaker_beats_stronger": "w",
    "not_monotone": "o",
    "fewer_attacks": "f",
    "interval_wider_than_gap": "g",
    "epsilon_invalid": "e",
    "inactive": "n",
}
MARKS = {
    "better": "green",
    "fixed": "green",
    "same": "dim",
    "worse": "bold red",
    "newly failing": "bold red",
    "not comparable": "yellow",
}


@dataclass(frozen=True)
class FittedTable:
    """A table that leaves out columns, then folds names, until it fits the console.

    Attributes:
        cells: Texts by column, those of `SHOWN` that this table has.
    """

    cells: pd.DataFrame

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table with as many columns as fit; a column that tells the rows apart stays longest."""
        spared: list[str] = []
        shown = self._with_columns(spared)
        for name in self._order():
            if console.measure(shown, options=options.update(max_width=10_000)).maximum <= options.max_width:
                break
            spared.append(name)
            shown = self._with_columns(spared)
        yield shown

    def _order(self) -> list[str]:
        # The cut asked for stands in the title.
        moved = self.cells["cut"].str.contains("->", regex=False).any()
        return [name for name in SPARED if name in self.cells and (name != "cut" or not moved)]

    def _with_columns(self, spared: list[str]) -> Table:
        names = [name for name in SHOWN if name in self.cells and name not in spared]
        shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        for name in names:
            # Numbers must stay whole on a narrow terminal; names may fold.
            shown.add_column(
                SHOWN[name],
                justify="right" if name in NUMBERS else "left",
                no_wrap=name not in FOLDED,
                overflow="fold",
            )
        for row in self.cells[names].itertuples(index=False):
            shown.add_row(*(Text(str(cell)) for cell in row))
        return shown


def to_terminal(board: Leaderboard) -> Group:
    """One table for every place where ranks start anew, by goal; print it with a `rich.console.Console`.

    Names and flags are shortened; a legend below says what they stand for.
    """
    attacks, defenses = attack_names(board.attacks), defense_names(board.rows)
    parts: list[FittedTable | Text] = []
    for goal, tables in by_goal(board):
        parts.append(Text(GOAL_TITLES[goal] + "\n", style="bold"))
        for title, frame in tables:
            cells = printed(frame, attacks, defenses)
            cells["leakage"] = cells["leakage"].str.replace(", not established", " lower bound")
            cells["flags"] = [flag_letters(str(codes)) for codes in frame["flags"]]
            parts += [Text(title, style="italic"), FittedTable(cells), Text()]
    if not parts:
        return Group(Text("No rows: nothing was planned and nothing was run."))
    broken = [BROKEN_NOTE] if any(planted is False for planted in board.rows["worst_planted"]) else []
    rates = [RATES_NOTE] if board.rows["identification"].notna().any() else []
    lines = [FRONT_NOTE, *broken, *rates]
    lines += [f"{short}: {params}" for short, params in legend(attacks) + legend(defenses)]
    lines += [
        f"{LETTERS[code] + ' ' if code in LETTERS else ''}{code}: {meaning(code)}"
        for code in sorted(set(board.notes["flag"]))
    ]
    return Group(*parts, *(Text(text(line), style="dim") for line in lines))


def flag_letters(codes: str) -> str:
    """Flags as the leaderboard lists them (`a, b`), each as its letter, then those without one whole."""
    listed = codes.split(", ")
    known = "".join(LETTERS.get(code, "") for code in listed)
    return text(" ".join([known, *(code for code in listed if code not in LETTERS)]).strip())


def to_verdicts(verdicts: list[Verdict]) -> Group:
    """One line a cell with its mark, then what all cells share, the attacks' parameters, and the counts."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("mark", no_wrap=True)
    shown.add_column("cell", overflow="fold")
    shown.add_column("why", overflow="fold")
    cells, shared, names = short_cells([verdict.cell for verdict in verdicts])
    for verdict, cell in zip(verdicts, cells, strict=True):
        shown.add_row(Text(verdict.mark, style=MARKS[verdict.mark]), Text(text(cell)), Text(verdict.sentence))
    notes = [f"all cells: {shared}"] if shared else []
    notes += [f"{short}: {params}" for short, params in legend(names)]
    counts = {mark: sum(verdict.mark == mark for verdict in verdicts) for mark in MARKS}
    told = ", ".join(f"{count} {mark}" for mark, count in counts.items() if count) or "no cells"
    lines = [Text(text(note), style="dim") for note in notes]
    return Group(shown, *lines, Text(f"{told}; exit code {exit_code(verdicts)}"))


def print_leaderboard(board: Leaderboard, console: Console | None = None) -> None:
    """Print the leaderboard, by default to standard output."""
    (console or Console()).print(to_terminal(board))
