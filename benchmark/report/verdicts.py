"""Cells of the gate in print: only the axes that tell them apart, attacks by their short names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from benchmark.report.names import Variant, full_name, short_names

AXIS = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|.*?)(?: \| |$)')
KEPT = ("defense", "attack")


def short_cells(cells: Sequence[str]) -> tuple[list[str], str, dict[Variant, str]]:
    """Texts of `benchmark.rows.axes_text`, shortened.

    Returns:
        One short text a cell; the axes that all of them share, in one text; and the short names of the attacks.
    """
    read = [_axes(cell) for cell in cells]
    names = short_names(_attack(axes) for axes in read)
    shared = {key: value for key, value in (read[0] if read else {}).items() if all(a.get(key) == value for a in read)}
    shared = {key: value for key, value in shared.items() if key not in (*KEPT, "params", "attack_params")}
    return [_short(axes, shared, names) for axes in read], _joined(shared), names


def _short(axes: Mapping[str, str], shared: Mapping[str, str], names: Mapping[Variant, str]) -> str:
    named = {"defense": full_name(axes.get("defense", ""), axes.get("params", "")), "attack": names[_attack(axes)]}
    rest = {key: value for key, value in axes.items() if key not in (*shared, *KEPT, "params", "attack_params")}
    return _joined({**named, **rest})


def _attack(axes: Mapping[str, str]) -> Variant:
    return axes.get("attack", ""), axes.get("attack_params", "")


def _axes(cell: str) -> dict[str, str]:
    found = AXIS.findall(cell)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in found}


def _joined(axes: Mapping[str, str]) -> str:
    return " | ".join(f"{key}={value}" for key, value in axes.items())
