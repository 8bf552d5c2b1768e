"""The leaderboard as a page of HTML: self-contained, without scripts, the same to the byte from the same records.

Names and sentences come from plug-ins, suites and records, and are text wherever they stand: the template escapes
everything that is put into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from benchmark.flags import meaning
from benchmark.leaderboard import Leaderboard
from benchmark.report.cells import text
from benchmark.report.names import attack_names, legend
from benchmark.report.tables import (
    BROKEN_NOTE,
    FRONT_NOTE,
    GOAL_TITLES,
    RATES_NOTE,
    by_goal,
    printed_attacks,
    printed_by_goal,
    printed_claims,
)

# Beside the cut asked for, what a flag is filed under.
PLACE = ("goal", "dataset", "model", "topology", "threat_model", "defense", "params")
Place = tuple[Any, ...]
Note = tuple[str, str, str]

# In the order in which they are printed; docs/scoring.md has the formulas.
MEANINGS = {
    "rank": "place within the table, 1 is best; none where a flag says that the result must not be trusted",
    "tier": "how much utility the defense costs, 1 (little) to 3; ranks go by tier first",
    "defense": "the defense and its parameters; * on the Pareto front of its table",
    "cut": "the last module of the client's head; an arrow where the defense moves it",
    "utility": "test accuracy with the defense on, in [0, 1], higher is better",
    "drop": "accuracy without the defense minus utility, a fraction, lower is better",
    "leakage": "what the worst attack gains over the best control, in [0, 1], lower is better, with its 95 % interval",
    "change": "leakage minus that of the undefended client, with its 95 % interval; below 0 something is hidden",
    "worst_attack": "the attack that sets the leakage; ! where it fails on planted clients, which hide nothing",
    "white_box": "leakage to the reference that knows the client's weights",
    "ssim": "structural similarity of reconstructions after alignment, mean over images, higher leaks more",
    "psnr_aligned": "peak signal-to-noise ratio after alignment, dB, higher leaks more",
    "mse_raw": "mean squared error without alignment, lower leaks more",
    "identified (chance)": "share of reconstructions nearest to their own image among many, and by guessing",
    "recognised (truth)": "share of reconstructions that an independent classifier reads, and of the images themselves",
    "label_advantage": "accuracy of inferred labels above the best control without gradients, over what is left to 1",
    "label_accuracy": "share of labels inferred",
    "steal_advantage": "how far a clone gets from a random head to the client's own, in [0, 1]",
    "steal_accuracy": "accuracy of the clone in front of the true body",
    "epsilon_activations": "differential privacy claimed for activations; inf where nothing is claimed",
    "epsilon_weights": "differential privacy claimed for weights; inf where nothing is claimed",
    "epsilon_labels": "differential privacy claimed for labels; inf where nothing is claimed",
    "noise_to_rms": "standard deviation of the noise over the root mean square of the smashed data",
    "cost_bytes": "bytes up and down for one sample in one training step",
    "cost_time": "training time over that of the undefended victim",
    "controls": "what scores without any attack",
    "converged": "whether the attack came to rest",
    "done": "cells measured of those planned",
}


def to_html(board: Leaderboard) -> str:
    """The page: a table for each goal, data set, model, topology, cut and threat model, its flags in words, the rest.

    Args:
        board: As `benchmark.leaderboard.leaderboard` gives it.
    """
    names, raised = attack_names(board.attacks), _by_place(board.notes)
    goals = [
        (
            GOAL_TITLES[goal],
            [(title, _table(frame, rows, raised)) for (title, frame), (_, rows) in zip(tables, found, strict=True)],
        )
        for (goal, tables), (_, found) in zip(printed_by_goal(board), by_goal(board), strict=True)
    ]
    attacks = _plain(printed_attacks(board.attacks, names)) if len(board.attacks) else None
    tables = [table for _, of_goal in goals for _, table in of_goal] + ([attacks] if attacks else [])
    shown = {column for table in tables for column in table["columns"]}
    return _template().render(
        suite=text(board.suite),
        digest=text(board.suite_digest),
        goals=goals,
        attacks=attacks,
        claims=_plain(printed_claims(board.claims)) if len(board.claims) else None,
        parameters=legend(names),
        notes=[FRONT_NOTE, BROKEN_NOTE, RATES_NOTE],
        flags=[(code, meaning(code)) for code in sorted(set(board.notes["flag"]))],
        meanings={name: sentence for name, sentence in MEANINGS.items() if name in shown},
    )


def _table(frame: pd.DataFrame, rows: pd.DataFrame, notes: Mapping[Place, Sequence[Note]]) -> dict[str, Any]:
    table = _plain(frame.drop(columns="flags"))
    places = zip(*(rows[name].tolist() for name in ("asked", *PLACE)), strict=True)
    table["raised"] = [
        _raised(set(str(flags).split(", ")), notes.get(place, ()))
        for place, flags in zip(places, rows["flags"], strict=True)
    ]
    return table


def _plain(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": [str(name) for name in frame.columns], "rows": frame.to_numpy().tolist()}


def _by_place(notes: pd.DataFrame) -> dict[Place, list[Note]]:
    """Code, severity and sentence of each flag, by the row that it is raised on."""
    found: dict[Place, list[Note]] = defaultdict(list)
    columns = (notes[name].tolist() for name in ("cut", *PLACE, "flag", "severity", "sentence"))
    for *place, code, severity, sentence in zip(*columns, strict=True):
        found[tuple(place)].append((code, severity, text(sentence)))
    return found


def _raised(codes: set[str], notes: Sequence[Note]) -> list[Note]:
    return [note for note in dict.fromkeys(notes) if note[0] in codes]


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("benchmark", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("leaderboard.html")
