"""A drawing of how far each attack gets at each cut: leakage, and the accuracy of the stolen head, against depth."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark import registry
from benchmark.attack_score import attack_score, sample
from benchmark.errors import UserError
from benchmark.metrics.statistics import interval, resampled_scores, wilson
from benchmark.models import cuts, network
from benchmark.record_values import number
from benchmark.report.names import Variant, names_across
from benchmark.rows import Slot, configurations
from benchmark.seeds import Rng

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel

    from benchmark.rows import Configuration

_PANEL, _HEIGHT = 2.9, 2.5
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#882255")


@dataclass(frozen=True)
class Point:
    """What one attack reached at one cut.

    Attributes:
        cut: Name of the cut.
        value, low, high: Mean and ends of its bar, in [0, 1].
        at_rest: Whether the attack came to rest and passes its planted clients; otherwise the value is a lower bound.
    """

    cut: str
    value: float
    low: float
    high: float
    at_rest: bool


@dataclass(frozen=True)
class Column:
    """One data set with one kind of victim.

    Attributes:
        title: What it is.
        cuts: Names of the cuts that were attacked, shallowest first, and their depth in weight layers.
        leakage: Attack -> its points, by depth; a cut that lacks a planned cell has none.
        stolen: The same for the accuracy of the clone's head in front of the true body.
        victim, random: Cut -> accuracy of the victim and of random heads.
        note: What a reader must know about this copy of the data; empty for an original one.
    """

    title: str
    cuts: Mapping[str, int]
    leakage: Mapping[str, Sequence[Point]]
    stolen: Mapping[str, Sequence[Point]]
    victim: Mapping[str, float]
    random: Mapping[str, float]
    note: str = ""


def columns(found: Sequence[Slot]) -> list[Column]:
    """What undefended clients of the vanilla topology lose at inference, a column a data set and kind of victim.

    Bars of leakage are those of the leaderboard: 95 % of a bootstrap over victims, images and attack seeds. Bars of the
    stolen accuracy span the cells, each with Wilson's 95 % interval over the test images.

    Args:
        found: See `benchmark.rows.slots`.
    """
    groups: dict[tuple[str, str, str], list[Slot]] = defaultdict(list)
    for slot in found:
        axes = slot.axes
        if axes.defense == "none" and axes.topology == "vanilla" and axes.phase == "inference":
            groups[axes.dataset, axes.model, axes.victim].append(slot)
    names = names_across(
        [(slot.axes.attack, slot.axes.attack_params) for slot in members] for members in groups.values()
    )
    return [_column(key, groups[key], names) for key in sorted(groups)]


def _column(key: tuple[str, str, str], found: Sequence[Slot], short: Mapping[Variant, str]) -> Column:
    dataset, model, victim = key
    depths = _depths(model, found)
    by_attack = configurations(found)
    names = {one: _named(one, short) for one in by_attack}
    leakage: dict[str, list[Point]] = {}
    stolen: dict[str, list[Point]] = {}
    accuracy: dict[str, float] = {}
    random: dict[str, float] = {}
    for configuration, slots in by_attack.items():
        for cut in depths:
            members = [slot for slot in slots if slot.axes.cut == cut]
            records = [slot.done for slot in members if slot.done is not None]
            if not members or len(records) < len(members):
                continue
            goals = members[0].axes.goals
            if "reconstruct" in goals:
                samples = [sample(record, "inputs") for record in records]
                draws = resampled_scores(samples, sorted({one.seed for one in samples})).clip(0.0, 1.0)
                at_rest = attack_score(records, "inputs").speaks
                leakage.setdefault(names[configuration], []).append(Point(cut, draws[0], *interval(draws), at_rest))
            if "steal" in goals:
                n = records[0].evidence["n_test"]
                ends = [wilson(round(record.scalars["steal_accuracy"] * n), n) for record in records]
                mean = float(np.mean([record.scalars["steal_accuracy"] for record in records]))
                low, high = min(end[0] for end in ends), max(end[1] for end in ends)
                at_rest = attack_score(records, "client_model").speaks
                stolen.setdefault(names[configuration], []).append(Point(cut, mean, low, high, at_rest))
                accuracy[cut] = number(records[0].scalars, "victim_accuracy")
                random.setdefault(cut, float(np.mean(records[0].controls["random_clone"]["steal_accuracy"])))
    note = next((str(slot.done.targets.get("note", "")) for slot in found if slot.done), "")
    return Column(f"{dataset}, {victim}", depths, leakage, stolen, accuracy, random, note)


def _named(one: Configuration, short: Mapping[Variant, str]) -> str:
    name = short[one.attack, one.attack_params]
    return f"{name}, {one.threat_model}" if one.threat_model.startswith("architecture of ") else name


def _depths(model: str, found: Sequence[Slot]) -> dict[str, int]:
    shapes = {(tuple(slot.done.targets["image_shape"]), slot.done.targets["n_classes"]) for slot in found if slot.done}
    if not shapes:
        return {}
    ((shape, n_classes),) = shapes
    every = cuts(network(registry.plugin("model", model), shape, n_classes, Rng("depth")))
    attacked = {slot.axes.cut for slot in found}
    return {name: depth for name, depth in every.items() if name in attacked}


def to_svg(drawn: Sequence[Column]) -> bytes:
    """Draw the columns beside each other: leakage above, stolen accuracy below.

    Hollow marks are lower bounds: the attack had not come to rest, or fails planted clients.

    Returns:
        An SVG file; the same columns give the same bytes under the same matplotlib.

    Raises:
        UserError: There is nothing to draw.
    """
    drawn = [column for column in drawn if column.leakage or column.stolen]
    if not drawn:
        raise UserError("nothing is to be drawn: no attack on an undefended client is done at all of its seeds")
    names = list(dict.fromkeys(name for column in drawn for name in (*column.leakage, *column.stolen)))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
    # What a user's matplotlibrc may change is given explicitly; ids come from the salt and not from chance.
    with matplotlib.rc_context({"svg.hashsalt": "unsplit-bench", "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        legend_rows = -(-(len(names) + 3) // 3)
        height = 2 * _HEIGHT + 0.22 * legend_rows + 0.4
        figure = Figure(figsize=(_PANEL * len(drawn) + 0.6, height), facecolor="white")
        panels = figure.subplots(2, len(drawn), squeeze=False, sharey=True)
        for at, column in enumerate(drawn):
            upper, lower = panels[0][at], panels[1][at]
            _panel(upper, column, column.leakage, colours)
            _panel(lower, column, column.stolen, colours)
            for values, style in ((column.victim, "--"), (column.random, ":")):
                known = [(place, values[cut]) for place, cut in enumerate(column.cuts) if cut in values]
                lower.plot(*zip(*known, strict=True) if known else ([], []), style, color="#777777", lw=1)
            upper.set_title(column.title + (" †" if column.note else ""), fontsize=9)
        panels[0][0].set_ylabel("leakage", fontsize=9)
        panels[1][0].set_ylabel("accuracy of the stolen head", fontsize=9)
        handles = [Line2D([], [], color=colours[name], marker="o", ms=4, lw=1.2, label=name) for name in names]
        handles += [
            Line2D([], [], color="#777777", ls="--", lw=1, label="the victim itself"),
            Line2D([], [], color="#777777", ls=":", lw=1, label="random heads"),
            Line2D([], [], color="#777777", marker="o", mfc="white", ms=4, lw=0, label="lower bound: not at rest"),
        ]
        notes = dict.fromkeys(column.note for column in drawn if column.note)
        if notes:
            figure.text(0.995, 0.01, "† " + "; ".join(notes), fontsize=7, ha="right", va="bottom", parse_math=False)
        figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=8, frameon=False)
        figure.subplots_adjust(
            left=0.6 / (_PANEL * len(drawn) + 0.6),
            right=0.99,
            top=1 - 0.28 / height,
            bottom=(0.22 * legend_rows + 0.62) / height,
            wspace=0.08,
            hspace=0.28,
        )
        content = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _panel(panel: Panel, column: Column, series: Mapping[str, Sequence[Point]], colours: Mapping[str, str]) -> None:
    order = list(column.cuts)
    for at, (name, points) in enumerate(series.items()):
        # Beside each other, so that bars do not hide bars.
        offset = 0.07 * (at - (len(series) - 1) / 2)
        x = [order.index(point.cut) + offset for point in points]
        y = [point.value for point in points]
        panel.plot(x, y, color=colours[name], lw=0.8, alpha=0.6)
        for place, point in zip(x, points, strict=True):
            panel.errorbar(
                [place],
                [point.value],
                yerr=[[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]],
                color=colours[name],
                marker="o",
                ms=3.5,
                mfc=colours[name] if point.at_rest else "white",
                lw=1,
                capsize=1.5,
            )
    panel.set_xticks(range(len(order)), [f"{cut}\n{column.cuts[cut]}" for cut in order], fontsize=7)
    panel.tick_params(axis="y", labelsize=7)
    panel.set_xlim(-0.5, len(order) - 0.5)
    panel.set_ylim(-0.03, 1.03)
    panel.grid(axis="y", color="#dddddd", lw=0.5)
    panel.set_axisbelow(True)
