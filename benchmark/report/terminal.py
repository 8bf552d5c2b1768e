"""The leaderboard on a terminal: the columns that matter, fitted to a narrow width."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from benchmark.gate import Verdict, exit_code
from benchmark.leaderboard import Leaderboard
from benchmark.report.names import attack_names
from benchmark.report.tables import FRONT_NOTE, GOAL_TITLES, by_goal, printed

SHOWN = {
    "rank": "#",
    "tier": "tier",
    "defense": "defense",
    "cut": "cut",
    "utility": "utility",
    "drop": "drop",
    "leakage": "leakage [95 %]",
    "worst_attack": "worst attack",
    "done": "done",
    "flags": "flags",
}
NUMBERS = ("rank", "tier", "utility", "drop", "done")
MARKS = {
    "better": "green",
    "fixed": "green",
    "same": "dim",
    "worse": "bold red",
    "newly failing": "bold red",
    "not comparable": "yellow",
}


def to_terminal(board: Leaderboard) -> Group:
    """One table for every place where ranks start anew, by goal; print it with a `rich.console.Console`."""
    parts: list[Table | Text] = []
    for goal, tables in by_goal(board):
        parts.append(Text(GOAL_TITLES[goal], style="bold"))
        for title, frame in tables:
            shown = Table(
                title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
            )
            for name, header in SHOWN.items():
                # Numbers must stay whole on a narrow terminal; names and flags may fold.
                number = name in NUMBERS
                shown.add_column(
                    header, justify="right" if number else "left", no_wrap=number or name == "leakage", overflow="fold"
                )
            for row in printed(frame, attack_names(board.attacks)).to_dict(orient="records"):
                shown.add_row(*(Text(str(row[name])) for name in SHOWN))
            parts.append(shown)
    if parts:
        parts.append(Text(FRONT_NOTE, style="dim"))
    return Group(*parts or [Text("No rows: nothing was planned and nothing was run.")])


def to_verdicts(verdicts: list[Verdict]) -> Group:
    """One line a cell with its mark, and a last one that counts them."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("mark", no_wrap=True)
    shown.add_column("cell", overflow="fold")
    shown.add_column("why", overflow="fold")
    for verdict in verdicts:
        shown.add_row(Text(verdict.mark, style=MARKS[verdict.mark]), Text(verdict.cell), Text(verdict.sentence))
    counts = {mark: sum(verdict.mark == mark for verdict in verdicts) for mark in MARKS}
    told = ", ".join(f"{count} {mark}" for mark, count in counts.items() if count) or "no cells"
    return Group(shown, Text(f"{told}; exit code {exit_code(verdicts)}"))


def print_leaderboard(board: Leaderboard, console: Console | None = None) -> None:
    """Print the leaderboard, by default to standard output."""
    (console or Console()).print(to_terminal(board))
