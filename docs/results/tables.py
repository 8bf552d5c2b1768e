"""Writes the tables of docs/results/unsplit-v1.md, between their markers, from the records of the suite.

python docs/results/tables.py            # from the records that come with the project
python docs/results/tables.py OUT        # from a run into OUT
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.cell import Plan
from benchmark.data import Facts
from benchmark.plan import plan
from benchmark.record import Record
from benchmark.record_values import image_mean, slot_mean
from benchmark.released import read_released
from benchmark.report.depth import Column, Point, columns
from benchmark.report.names import names_across
from benchmark.rows import Slot, configurations, slots
from benchmark.run import records_of
from benchmark.store import Store
from benchmark.suite import load_suite

PAGE = Path(__file__).with_name("unsplit-v1.md")
SUITE = "unsplit-v1"
RELEASED = Path(__file__).parents[2] / "results"
GAP = "—"
_MARKED = re.compile(r"(<!-- table (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def planned(records: Iterable[Record]) -> Plan:
    """The suite's plan; what it must know of data sets is taken from records."""
    facts = {
        r.axes.dataset: Facts(
            r.axes.dataset, r.targets["dataset_digest"], tuple(r.targets["image_shape"]), r.targets["n_classes"]
        )
        for r in records
        if "image_shape" in r.targets
    }
    return plan(load_suite(SUITE), recorded=facts, data_root=Path("no data is needed"))


def tables(found: Sequence[Slot]) -> dict[str, str]:
    """Every table by its name."""
    made: dict[str, str] = {}
    for column in columns(found):
        place = column.title.replace(",", "")
        made[f"leakage {place}"] = by_cut(column, column.leakage)
        made[f"stolen {place}"] = stolen(column)
    for dataset in sorted({slot.axes.dataset for slot in found}):
        made[f"raw {dataset}"] = raw(found, dataset)
    made["extensions"] = extensions()
    return made | {"labels": labels(found), "victims": victims(found), "coverage": coverage(found)}


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with every table between its markers.

    Raises:
        KeyError: A marker names a table that there is not.
    """
    return _MARKED.sub(lambda match: f"{match[1]}\n{made[match['name']]}\n{match[3]}", page)


def by_cut(column: Column, series: Mapping[str, Sequence[Point]]) -> str:
    """A row an attack, a column a cut: mean and interval, `≥` where the attack had not come to rest."""
    rows = []
    for name, points in series.items():
        at = {point.cut: point for point in points}
        rows.append([name, *(_told(at.get(cut)) for cut in column.cuts)])
    return markdown(["attack", *column.cuts], rows)


def stolen(column: Column) -> str:
    """The same for the accuracy of stolen heads, with the victim and random heads."""
    beside = [
        [name, *(_number(values.get(cut)) for cut in column.cuts)]
        for name, values in (("the victim itself", column.victim), ("random heads", column.random))
    ]
    return "\n".join([by_cut(column, column.stolen), *markdown([], beside).splitlines()[2:]])


def raw(found: Sequence[Slot], dataset: str) -> str:
    """Raw MSE and, behind it, aligned SSIM, of attackers who know the architecture, the white box and guesses."""
    chosen = [slot for slot in found if slot.axes.dataset == dataset and "reconstruct" in slot.axes.goals]
    every = [slot for slot in found if "reconstruct" in slot.axes.goals]
    names = names_across(
        [(slot.axes.attack, slot.axes.attack_params) for slot in every if slot.axes.dataset == one]
        for one in sorted({slot.axes.dataset for slot in every})
    )
    cuts = _in_order(chosen)
    rows = []
    for victim in sorted({slot.axes.victim for slot in chosen}):
        here = [slot for slot in chosen if slot.axes.victim == victim]
        for one, members in configurations(here).items():
            if one.threat_model in ("architecture", "white box"):
                row = [victim, names[one.attack, one.attack_params]]
                for cut in cuts:
                    cells = [slot for slot in members if slot.axes.cut == cut]
                    values = (slot_mean(cells, _mean(metric)) for metric in ("mse_raw", "ssim_aligned"))
                    row.append(_pair(*values))
                rows.append(row)
    controls = next((slot.done.controls for slot in chosen if slot.done is not None), {})
    for control in sorted(controls.keys() - {"random_clone"}):
        means = [float(np.mean(controls[control][metric])) for metric in ("mse_raw", "ssim_aligned")]
        rows.append(["any", f"no attack: {control}", *[_pair(*means)] * len(cuts)])
    return markdown(["victim", "what", *cuts], rows)


def labels(found: Sequence[Slot]) -> str:
    """Accuracy of inferred labels, over the attack seeds from least to most, beside the best control."""
    chosen = [slot for slot in found if slot.axes.goals == ["infer_labels"]]
    layers = {("mnist_net", "fc3"): 1, ("mnist_net", "fc2"): 2, ("cifar_net", "fc2"): 1, ("cifar_net", "fc1"): 2}
    states = ("untrained", "trained")
    batches = ("1", "64")
    rows = []
    for dataset in sorted({slot.axes.dataset for slot in chosen}):
        of_data = [slot for slot in chosen if slot.axes.dataset == dataset]
        for attack, params, granted in sorted({_labelled(slot) for slot in of_data}):
            for n_layers in (1, 2):
                row = [dataset, _plain(attack, params), granted, str(n_layers)]
                for state in states:
                    for batch in batches:
                        cells = [
                            slot
                            for slot in of_data
                            if _labelled(slot) == (attack, params, granted)
                            and layers[slot.axes.model, str(slot.axes.tail)] == n_layers
                            and slot.axes.victim == state
                            and slot.axes.targets.endswith(f" {batch}")
                        ]
                        row.append(_accuracies(cells))
                rows.append(row)
    heads = [f"{state}, batch {batch}" for state in states for batch in batches]
    return markdown(["data", "attack", "attacker reads", "tail layers", *heads], rows)


def victims(found: Sequence[Slot]) -> str:
    """What the victims were trained with, and how well they do."""
    done = {(s.axes.dataset, s.axes.model, s.axes.victim): s.done for s in found if s.done is not None}
    rows = [
        [dataset, model, victim, _number(record.utility["accuracy"]), _minutes(record), record.targets["note"] or GAP]
        for (dataset, model, victim), record in sorted(done.items())
        if record is not None
    ]
    return markdown(["data", "model", "victim", "test accuracy", "minutes of training", "note on the data"], rows)


def coverage(found: Sequence[Slot]) -> str:
    """How many of the planned cells are done."""
    rows = []
    for dataset, attack in sorted({(slot.axes.dataset, slot.axes.attack) for slot in found}):
        cells = [slot for slot in found if (slot.axes.dataset, slot.axes.attack) == (dataset, attack)]
        rows.append([dataset, attack, str(_done(cells)), str(len(cells))])
    rows.append(["all", "", str(_done(found)), str(len(found))])
    return markdown(["data", "attack", "cells done", "planned"], rows)


def extensions() -> str:
    """What the defenses of smoke-v2 keep of the task and leak of the inputs, by what the attacker knows."""
    frame = pd.read_csv(RELEASED / "smoke-v2" / "leaderboard.csv")
    inputs = frame[frame["goal"] == "inputs"]
    rows = []
    for (defense, params), group in inputs.fillna({"params": ""}).groupby(["defense", "params"], sort=True):
        of = {row["threat_model"]: row for row in group.to_dict(orient="records")}
        first = next(iter(of.values()))
        row = [f"{defense} ({params})" if params else str(defense), _number(first["utility"])]
        for threat_model in ("architecture", "architecture+auxiliary+query"):
            one = of[threat_model]
            bound = "≥ " if "not_established" in str(one["flags"]) else ""
            row.append(f"{bound}{_number(one['leakage'])}")
        rows.append(row)
    heads = ["defense", "test accuracy", "leakage, attacker knows the architecture", "and auxiliary images and queries"]
    return markdown(heads, rows)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _told(point: Point | None) -> str:
    if point is None:
        return GAP
    bound = "" if point.at_rest else "≥ "
    return f"{bound}{point.value:.3f} [{point.low:.3f}, {point.high:.3f}]"


def _number(value: float | None) -> str:
    return GAP if value is None or not np.isfinite(value) else f"{value:.3f}"


def _pair(mse: float, ssim: float) -> str:
    return GAP if not np.isfinite(mse) else f"{mse:.3f} / {ssim:.2f}"


def _done(cells: Iterable[Slot]) -> int:
    return sum(slot.done is not None for slot in cells)


def _mean(metric: str) -> Callable[[Record], float]:
    return lambda record: image_mean(record, metric)


def _in_order(members: Sequence[Slot]) -> list[str]:
    order = ["conv1", "conv11", "conv12", "pool1", "conv2", "conv21", "conv22", "pool2", "fc1"]
    return sorted({slot.axes.cut for slot in members}, key=order.index)


def _labelled(slot: Slot) -> tuple[str, str, str]:
    cut = "observes=cut_gradient" in slot.axes.attack_params or slot.axes.attack == "gradient_similarity"
    reads = "cut gradient" if cut else "weight gradient, which no server is sent"
    if slot.axes.attack == "gradient_similarity":
        reads += ", and knows one label a class"
    return slot.axes.attack, slot.axes.attack_params, reads


def _plain(attack: str, params: str) -> str:
    distance = " (cosine)" if "distance=cosine" in params else " (mse)" if attack == "label_matching" else ""
    return attack + distance


def _accuracies(cells: Sequence[Slot]) -> str:
    records = [slot.done for slot in cells if slot.done is not None]
    if not cells or len(records) < len(cells):
        return GAP
    shares = sorted(record.scalars["label_accuracy"] for record in records)
    control = max(np.mean(metrics["accuracy"]) for metrics in records[0].controls.values())
    ends = f"{shares[0]:.2f}" if len(set(shares)) == 1 else f"{shares[0]:.2f}-{shares[-1]:.2f}"
    return f"{ends} ({control:.2f})"


def _minutes(record: Record) -> str:
    return f"{record.cost['training_seconds'] / 60:.1f}" if record.axes.victim == "trained" else "0"


def main(output: Path | None) -> None:
    """Write the tables into the page."""
    if output is None:
        records = list(read_released(SUITE).values())
        made = planned(records)
    else:
        with Store(output / "store.sqlite") as store:
            made = planned(store.records(SUITE))
            records = records_of(made, store, {})
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables(slots(records, made))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
