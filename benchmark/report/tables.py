"""The leaderboard as text: Markdown, CSV, LaTeX, JSON and HTML, the same to the byte from the same records.

Names come from plug-ins, so every cell is escaped for the format it is written in. A gap is an empty field in CSV,
null in JSON, and a dash elsewhere. Where the worst attack did not converge, the printed tables show leakage as a lower
bound; CSV and JSON keep the number, and the flag `not_established` tells. Markdown and LaTeX shorten the names of
attacks and list their parameters once; CSV and JSON have them whole.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UserError
from benchmark.flags import meaning
from benchmark.leaderboard import Leaderboard
from benchmark.report.cells import AT_LEAST, GAP, change_text, leakage_text, rate_text, rounded, text
from benchmark.report.names import Variant, attack_names, full_name, legend

FRONT = " *"
BROKEN = " !"
FRONT_NOTE = "* on the Pareto front: no ranked row of its table keeps more utility and leaks less."
BROKEN_NOTE = "! fails on planted clients, which hide nothing: what this attack finds counts, what it misses does not."
RATES_NOTE = (
    "identified: reconstructions nearest to their own image among many (share by guessing); recognised: those that an "
    "independent classifier reads rightly (share of the private images themselves)."
)
TABLE = ("goal", "dataset", "model", "topology", "tail", "victim", "asked", "threat_model")
GOAL_TITLES = {
    "inputs": "Inputs: how much of the private images is reconstructed",
    "labels": "Labels: how much better than without the gradient they are inferred",
    "client_model": "Client model: how much of the client's head is stolen",
}
PRINTED = (
    "rank", "tier", "defense", "cut", "utility", "utility_drop", "leakage", "leakage_change", "worst_attack",
    "white_box", "ssim_aligned", "identification", "recognition", "label_advantage", "steal_advantage",
    "epsilon_activations", "epsilon_weights", "epsilon_labels", "noise_to_rms", "cost_bytes", "cost_time", "n_done",
    "flags",
)  # fmt: skip
ONLY_FOR = {
    "inputs": ("ssim_aligned", "identification", "recognition"),
    "labels": ("label_advantage",),
    "client_model": ("steal_advantage",),
}
# A rate means nothing without the one beside it: what guessing reaches, what the private images themselves reach.
HELD_AGAINST = {"identification": "identification_chance", "recognition": "recognition_of_truth"}
ATTACKS_PRINTED = (
    "defense", "cut", "attack", "role", "stance", "phase", "views", "threat_model", "leakage", "ssim_aligned",
    "psnr_aligned", "mse_raw", "identification", "recognition", "label_accuracy", "label_advantage", "steal_accuracy",
    "steal_advantage", "controls", "converged", "n_done",
)  # fmt: skip
# In a suite of several, attacks could not be told apart without them.
ATTACK_PLACES = ("dataset", "model", "tail", "victim", "targets")
HEADERS = {
    "utility_drop": "drop",
    "leakage_change": "change",
    "ssim_aligned": "ssim",
    "psnr_aligned": "psnr",
    "identification": "identified (chance)",
    "recognition": "recognised (truth)",
    "n_done": "done",
}


def render(board: Leaderboard, form: str) -> str:
    """The leaderboard in one format.

    Args:
        board: As `benchmark.leaderboard.leaderboard` gives it.
        form: `md`, `csv`, `tex`, `json` or `html`.

    Raises:
        UserError: There is no such format.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form}: no such format; choose one of: {', '.join(FORMATS)}")
    return FORMATS[form](board)


def write(board: Leaderboard, folder: Path) -> list[Path]:
    """Write `leaderboard.{md,csv,tex,json,html}` and `attacks.csv` into a folder, and return their paths.

    Raises:
        UserError: The folder cannot be written to.
    """
    texts = {f"leaderboard.{form}": render(board, form) for form in FORMATS}
    texts["attacks.csv"] = to_csv(board.attacks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"{folder}: the leaderboard cannot be written ({error.strerror}); choose another folder"
        ) from None
    return [folder / name for name in texts]


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV (quoted as in RFC 4180, lines end in a line feed): floats with four digits, gaps empty."""
    return frame.map(_csv_cell).to_csv(index=False, lineterminator="\n")


def to_parquet(frame: pd.DataFrame) -> bytes:
    """A frame as a Parquet file."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def to_json(board: Leaderboard) -> str:
    """Everything of the leaderboard as JSON: `rows`, `attacks`, `notes` and `claims`, floats with six digits."""
    value = {
        "suite": board.suite,
        "suite_digest": board.suite_digest,
        "rows": _json_rows(board.rows),
        "attacks": _json_rows(board.attacks),
        "notes": _json_rows(board.notes),
        "claims": _json_rows(board.claims),
        "flags": {code: meaning(code) for code in _codes(board)},
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(board: Leaderboard) -> str:
    """A readable page: one table for each goal, data set, model, topology, cut and threat model, then the attacks."""
    lines = [f"# Leaderboard of {_md(board.suite)}", ""]
    names = attack_names(board.attacks)
    for goal, tables in printed_by_goal(board):
        lines += [f"## {GOAL_TITLES[goal]}", ""]
        for title, frame in tables:
            lines += [f"### {_md(title)}", "", *_md_table(frame), ""]
    if len(board.rows):
        lines += [_md(FRONT_NOTE), ""]
    if any(_broken(planted) for planted in [*board.rows["worst_planted"], *board.attacks["planted"]]):
        lines += [_md(BROKEN_NOTE), ""]
    if board.rows["identification"].notna().any():
        lines += [_md(RATES_NOTE), ""]
    if len(board.attacks):
        lines += ["## Attacks", "", *_md_table(printed_attacks(board.attacks, names)), ""]
    if legend(names):
        lines += ["### Parameters", "", *(f"- {_md(short)}: {_md(params)}" for short, params in legend(names)), ""]
    if len(board.claims):
        lines += ["## Claims of differential privacy", "", *_md_table(printed_claims(board.claims)), ""]
    codes = _codes(board)
    if codes:
        lines += ["## Flags", "", *(f"- {_md(code)}: {_md(meaning(code))}" for code in codes), ""]
    return "\n".join(lines)


def to_latex(board: Leaderboard) -> str:
    """The tables of `to_markdown` without the attacks, for the LaTeX package booktabs."""
    names = attack_names(board.attacks)
    tables = [(f"{goal}: {title}", frame) for goal, found in printed_by_goal(board) for title, frame in found]
    captions = _tex([caption for caption, _ in tables])
    parts = [
        frame.drop(columns=["flags"]).to_latex(index=False, escape=True, caption=caption)
        for caption, (_, frame) in zip(captions, tables, strict=True)
    ]
    shorts, params = (_tex([entry[at] for entry in legend(names)]) for at in (0, 1))
    parts += [f"\\noindent {short}: {told}\n" for short, told in zip(shorts, params, strict=True)]
    if any(_broken(planted) for planted in board.rows["worst_planted"]):
        parts.append(f"\\noindent {_tex([BROKEN_NOTE])[0]}\n")
    return "\n".join(parts).replace(AT_LEAST, "$\\geq$").replace(GAP, "--")


def by_goal(board: Leaderboard) -> Iterator[tuple[str, list[tuple[str, pd.DataFrame]]]]:
    """The goals, each with its tables (title and rows) in the order of the frame; ranks hold within a table."""
    rows = board.rows.assign(asked=board.rows["cut"].astype(str).str.split("->").str[0])
    for goal in GOAL_TITLES:
        chosen = rows[rows["goal"] == goal]
        tables = [
            (_title(dict(zip(TABLE, key, strict=True))), frame)
            for key, frame in chosen.groupby(list(TABLE), sort=False, dropna=False)
        ]
        if tables:
            yield goal, tables


@lru_cache(maxsize=1)
def printed_by_goal(board: Leaderboard) -> list[tuple[str, list[tuple[str, pd.DataFrame]]]]:
    """As `by_goal`, each table as `printed`; one for all formats, so that none may change it."""
    names = attack_names(board.attacks)
    return [(goal, [(title, printed(frame, names)) for title, frame in tables]) for goal, tables in by_goal(board)]


def printed(
    frame: pd.DataFrame, attacks: Mapping[Variant, str], defenses: Mapping[Variant, str] | None = None
) -> pd.DataFrame:
    """The columns of one table that a reader needs, as text; those without any value are left out.

    Args:
        frame: Rows of one table.
        attacks: Short names of the attacks, as `benchmark.report.names.attack_names` gives them.
        defenses: Short names of the defenses; without, they keep all parameters.
    """
    goal = frame["goal"].iloc[0]
    hidden = {name for other, names in ONLY_FOR.items() if other != goal for name in names}
    rows = _dicts(frame)
    shown = frame[[name for name in PRINTED if name not in hidden]].map(text)
    marks = (FRONT if front else "" for front in frame["pareto"])
    shown["defense"] = [_named(row, defenses) + mark for row, mark in zip(rows, marks, strict=True)]
    titles = {f"{name}:{params}" if params else name: short for (name, params), short in attacks.items()}
    shown["worst_attack"] = [
        text(titles.get(title, title)) + _badge(planted)
        for title, planted in zip(frame["worst_attack"], frame["worst_planted"], strict=True)
    ]
    shown["cost_bytes"] = [GAP if pd.isna(cost) else f"{cost:.0f}" for cost in frame["cost_bytes"]]
    shown["leakage"] = [leakage_text(row) for row in rows]
    shown["leakage_change"] = [change_text(row) for row in rows]
    shown["n_done"] = [f"{row['n_done']}/{row['n_planned']}" for row in rows]
    beside = {name: reference for name, reference in HELD_AGAINST.items() if name in shown}
    for name, reference in beside.items():
        shown[name] = [rate_text(row[name], row[reference]) for row in rows]
    spared = (
        *beside,
        "leakage_change",
        "white_box",
        "noise_to_rms",
        *(f"epsilon_{view}" for view in ("activations", "weights", "labels")),
    )
    empty = [name for name in spared if set(shown[name]) <= {GAP, "inf"}]
    return shown.drop(columns=empty).rename(columns=HEADERS)


def printed_attacks(frame: pd.DataFrame, attacks: Mapping[Variant, str]) -> pd.DataFrame:
    """The attacks (controls stand in a column beside each) with the columns that a reader needs, as text."""
    frame = frame[frame["role"] != "control"]
    rows = _dicts(frame)
    places = [name for name in ATTACK_PLACES if len(set(frame[name].dropna())) > 1]
    shown = frame[[*places, *ATTACKS_PRINTED]].map(text)
    shown["defense"] = [_named(row) for row in rows]
    shown["attack"] = [text(attacks[row["attack"], row["attack_params"]]) + _badge(row["planted"]) for row in rows]
    reached = frame["cut"].where(frame["cut"] == frame["cut_reached"], frame["cut"] + "->" + frame["cut_reached"])
    shown["cut"] = reached.map(text)
    for name, reference in HELD_AGAINST.items():
        shown[name] = [rate_text(row[name], row[reference]) for row in rows]
    shown["n_done"] = [f"{row['n_done']}/{row['n_planned']}" for row in rows]
    shown = shown.loc[:, (shown != GAP).any()]
    return shown.rename(columns=HEADERS)


def printed_claims(frame: pd.DataFrame) -> pd.DataFrame:
    """The claims of differential privacy as text; delta, which is tiny, with three significant digits: 1e-05."""
    shown = frame.map(text)
    shown["delta"] = [text(d if isinstance(d, str) or pd.isna(d) else f"{d:.3g}") for d in frame["delta"]]
    return shown


def _named(row: Mapping[str, Any], names: Mapping[Variant, str] | None = None) -> str:
    variant = (row["defense"], row["params"])
    return text(full_name(*variant) if names is None else names[variant])


def _badge(planted: object) -> str:
    return BROKEN if _broken(planted) else ""


def _broken(planted: object) -> bool:
    # Of a row's worst attack true or false, of an attack in words; neither where nothing was measured.
    return planted is False or str(planted).startswith("failed")


def _title(table: Mapping[str, Any]) -> str:
    tail = "" if text(table["tail"]) == GAP else f", tail {table['tail']}"
    victim = "" if table["victim"] == "trained" else f", {table['victim']} victim"
    place = f"{table['dataset']}, {table['model']}, {table['topology']}{tail}{victim}, cut {table['asked']}"
    return text(f"{place}; attacker knows {table['threat_model']}")


def _codes(board: Leaderboard) -> list[str]:
    return sorted(set(board.notes["flag"]))


def _dicts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    # Column by column: pandas' own way through the rows takes ten times as long.
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _csv_cell(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    return rounded(value, 4) if isinstance(value, float) else value


def _json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{name: _json_cell(value) for name, value in row.items()} for row in _dicts(frame)]


def _json_cell(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float):
        return str(value) if value in (float("inf"), float("-inf")) else round(value, 6) + 0.0
    return value


def _md(value: str) -> str:
    # Underscores inside words mean nothing in GitHub's Markdown; escaping them would only hurt the reader.
    escaped = re.sub(r"([\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text(value))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tex(values: Sequence[str]) -> list[str]:
    # pandas escapes cells but not captions.
    cells = pd.DataFrame({"text": [*values]}, dtype=object).style.hide(axis="index").hide(axis="columns")
    _, _, body = str(cells.format(escape="latex").to_latex()).partition("\n")
    return [" ".join(cell.splitlines()) for cell in body.split(" \\\\\n")[: len(values)]]


def _md_table(frame: pd.DataFrame) -> list[str]:
    rows = [[str(name) for name in frame.columns], *frame.to_numpy().tolist()]
    lines = ["| " + " | ".join(_md(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(frame.columns), *lines[1:]]


def _html(board: Leaderboard) -> str:
    # Imported late: the page is made of what stands here.
    from benchmark.report.page import to_html

    return to_html(board)


FORMATS: dict[str, Callable[[Leaderboard], str]] = {
    "md": to_markdown,
    "csv": lambda board: to_csv(board.rows),
    "tex": to_latex,
    "json": to_json,
    "html": _html,
}
