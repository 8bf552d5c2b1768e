"""Records as pandas frames: the leaderboard, the attacks behind it, and everything per image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from benchmark.attack_rows import ATTACK_COLUMNS, attack_rows
from benchmark.cell import Plan
from benchmark.comparison import leakage_change
from benchmark.flags import Raised
from benchmark.rank import judge
from benchmark.record import Axes, Record
from benchmark.record_values import NAN, PRIVACY_VIEWS, READINGS, claimed, epsilon, number
from benchmark.rows import Slot, build_rows, slots
from benchmark.standing import Standing

# Names and order are what users' scripts rely on: later columns are only ever appended.
COLUMNS = (
    "rank", "tier", "goal", "defense", "side", "dataset", "model", "topology", "cut", "utility", "utility_drop",
    "leakage", "leakage_low", "leakage_high", "worst_attack", "ssim_aligned", "psnr_aligned", "mse_raw",
    "label_advantage", "steal_advantage", "epsilon_activations", "epsilon_weights", "epsilon_labels", "cost_bytes",
    "cost_time", "flags", "n_done", "n_planned", "params", "tail", "victim", "threat_model", "control", "white_box",
    "leakage_p95", "leakage_max", "n_seeds", "noise_to_rms", "worst_planted", "leakage_change", "leakage_change_low",
    "leakage_change_high", "pareto", "identification", "identification_chance", "recognition", "recognition_of_truth",
    "identification_max", "recognition_max",
)  # fmt: skip
WHOLE = (
    "rank",
    "tier",
    "n_done",
    "n_planned",
    "n_seeds",
    "views",
    "image",
    "target_id",
    "label",
    "seed",
    "attack_seed",
)
NOTE_COLUMNS = (
    "goal", "dataset", "model", "topology", "cut", "threat_model", "defense", "params", "flag", "severity", "sentence",
)  # fmt: skip
CLAIM_COLUMNS = (
    "defense", "params", "dataset", "model", "topology", "cut", "view", "epsilon", "delta", "unit", "adjacency",
    "accountant", "releases", "why_invalid",
)  # fmt: skip

IMAGE_COLUMNS = (
    "key", "suite", "suite_digest", "status", "reason", *(axis.name for axis in fields(Axes)), "image", "target_id",
    "label",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Everything the printed tables show.

    Attributes:
        suite, suite_digest: What was run; empty texts without records and plan.
        rows: One row for each goal x defense x dataset x model x topology x cut asked for x threat model; columns
            `COLUMNS`. `utility_drop` is a fraction (0.02 is two points). Gaps are missing values.
        attacks: One row for each attack on each defense, and the controls; columns `ATTACK_COLUMNS`.
        notes: One row for each flag that was raised, with its sentence; columns `NOTE_COLUMNS`.
        claims: One row for each claim of differential privacy; columns `CLAIM_COLUMNS`.
    """

    suite: str
    suite_digest: str
    rows: pd.DataFrame
    attacks: pd.DataFrame
    notes: pd.DataFrame
    claims: pd.DataFrame


def leaderboard(records: Sequence[Record], plan: Plan | None = None) -> Leaderboard:
    """Build the leaderboard of one suite.

    Args:
        records: In any order; of one suite and one digest of its file.
        plan: Everything that should be there; cells without a record become gaps. Without it, only what has a record
            is expected.

    Raises:
        UserError: Records of different suites or digests meet, or two cells stand in the same place.
    """
    found = slots(records, plan)
    judged = judge(build_rows(found))
    undefended = {s.row.key.table: s for s, _, _ in judged if s.row.key.defense == "none"}
    rows = _frame([_row(*entry, undefended.get(entry[0].row.key.table)) for entry in judged], COLUMNS)
    rows["pareto"] = _fronts(rows, [standing.row.key.table for standing, _, _ in judged])
    suites = [(plan.suite, plan.suite_digest)] if plan else [(r.suite, r.suite_digest) for r in records[:1]]
    suite, digest = suites[0] if suites else ("", "")
    return Leaderboard(
        suite=suite,
        suite_digest=digest,
        rows=rows,
        attacks=_frame(attack_rows(found), ATTACK_COLUMNS),
        notes=_frame([note for standing, raised, _ in judged for note in _notes(standing, raised)], NOTE_COLUMNS),
        claims=_frame(_claims(found), CLAIM_COLUMNS),
    )


def images_frame(records: Sequence[Record], plan: Plan | None = None) -> pd.DataFrame:
    """Everything per image: one row a cell and target, with all axes, metrics, controls and the cell's single values.

    Controls are columns `control.NAME.METRIC`, single values `NAME`, utility `utility.NAME`. A cell that is not done
    has one row without an image, with its status (`missing` where there is no record) and reason.

    Raises:
        UserError: As `leaderboard`.
    """
    rows = [row for slot in slots(records, plan) for row in _image_rows(slot)]
    names = dict.fromkeys(IMAGE_COLUMNS)
    for row in rows:
        names |= dict.fromkeys(row)
    plain = [name for name in names if "." not in name]
    return _frame(rows, [*plain, *sorted(name for name in names if "." in name)])


def on_front(frame: pd.DataFrame) -> list[bool]:
    """Which rows of one table are on its Pareto front: ranked, and no ranked row keeps more utility and leaks less."""
    points = [
        (float(drop), float(leakage)) if not pd.isna(rank) else None
        for drop, leakage, rank in zip(frame["utility_drop"], frame["leakage"], frame["rank"], strict=True)
    ]
    ranked = [point for point in points if point is not None]
    return [
        point is not None and not any(o[0] <= point[0] and o[1] <= point[1] and o != point for o in ranked)
        for point in points
    ]


def _fronts(rows: pd.DataFrame, tables: Sequence[tuple[str | None, ...]]) -> list[bool]:
    marks = [False] * len(rows)
    places: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
    for place, table in enumerate(tables):
        places[table].append(place)
    for members in places.values():
        for place, front in zip(members, on_front(rows.iloc[members]), strict=True):
            marks[place] = front
    return marks


def _row(standing: Standing, raised: Sequence[Raised], rank: int | None, undefended: Standing | None) -> dict[str, Any]:
    key, worst = standing.row.key, standing.worst
    score = None if worst is None else standing.scores[worst]
    return {
        "rank": rank,
        "tier": standing.tier,
        **{name: getattr(key, name) for name in ("goal", "defense", "side", "dataset", "model", "topology")},
        "cut": shown_cut(standing.row.slots),
        "utility": standing.utility,
        "utility_drop": standing.drop,
        "leakage": standing.leakage,
        "leakage_low": standing.low,
        "leakage_high": standing.high,
        "worst_attack": None if worst is None else worst.title,
        "worst_planted": None if score is None else score.planted,
        **{name: standing.worst_mean(name) for name in ("ssim_aligned", "psnr_aligned", "mse_raw")},
        "label_advantage": score.score if score and key.goal == "labels" else NAN,
        "steal_advantage": score.score if score and key.goal == "client_model" else NAN,
        **{f"epsilon_{view}": epsilon(standing.row.records, view) for view in PRIVACY_VIEWS},
        "cost_bytes": standing.over_victims(lambda r: number(r.cost, "bytes_up") + number(r.cost, "bytes_down")),
        "cost_time": standing.over_victims(lambda r: number(r.cost, "time_ratio")),
        "flags": ", ".join(flag.code for flag in raised),
        "n_done": standing.n_done,
        "n_planned": len(standing.row.slots),
        **{name: getattr(key, name) for name in ("params", "tail", "victim", "threat_model")},
        "control": f"{score.control} {score.control_mean:.3f}" if score else None,
        "white_box": standing.white_box,
        "leakage_p95": standing.p95,
        "leakage_max": standing.maximum,
        "n_seeds": len(standing.seeds),
        "noise_to_rms": standing.over_victims(_noise_to_rms),
        **_change(standing, undefended),
        **{name: standing.over_worst(value) for name, value in READINGS.items()},
        **{f"{name}_max": standing.most(READINGS[name]) for name in ("identification", "recognition")},
    }


def _change(standing: Standing, undefended: Standing | None) -> dict[str, float]:
    if undefended is None or undefended is standing:
        return {}
    found = leakage_change(standing, undefended)
    return {
        "leakage_change": found.estimate,
        "leakage_change_low": found.low,
        "leakage_change_high": found.high,
    }


def _noise_to_rms(record: Record) -> float:
    """The noise's standard deviation over the RMS of the smashed data, as reached; the largest of a composition's."""
    return max((value for name, value in record.reached.items() if name.endswith(".noise_to_rms")), default=NAN)


def shown_cut(found: Sequence[Slot]) -> str:
    """The cut asked for, and where the defense moved it to: `pool1->pool2`."""
    asked = found[0].axes.cut
    reached = sorted({slot.axes.cut_reached for slot in found})
    return asked if reached == [asked] else f"{asked}->{'/'.join(reached)}"


def _notes(standing: Standing, raised: Sequence[Raised]) -> list[dict[str, Any]]:
    place = {name: value for name, value in standing.row.key._asdict().items() if name in NOTE_COLUMNS}
    return [{**place, "flag": f.code, "severity": f.severity, "sentence": f.sentence} for f in raised]


def _claims(found: Sequence[Slot]) -> list[dict[str, Any]]:
    # A defense claims the same at every attack; where victim seeds differ, the weakest claim stands for all.
    weakest: dict[tuple[str, ...], dict[str, Any]] = {}
    for slot in found:
        for claim in slot.done.privacy if slot.done else []:
            axes = {name: getattr(slot.axes, name) for name in CLAIM_COLUMNS[:6]}
            rest = {name: claim.get(name) for name in CLAIM_COLUMNS[6:]}
            place = tuple(map(str, [*axes.values(), *(rest[n] for n in rest if n not in ("epsilon", "delta"))]))
            row = {**axes, **rest}
            if place not in weakest or _strength(row) > _strength(weakest[place]):
                weakest[place] = row
    return [weakest[place] for place in sorted(weakest)]


def _strength(row: dict[str, Any]) -> tuple[float, float]:
    value = claimed(row)
    # A claim that is not valid protects as little as an infinite one.
    return math.inf if math.isnan(value) else value, math.inf if row["delta"] is None else float(row["delta"])


def _image_rows(slot: Slot) -> list[dict[str, Any]]:
    record = slot.record
    axes = {**vars(slot.axes), "goals": "+".join(slot.axes.goals)}
    head = {
        "key": slot.key,
        "suite": record.suite if record else None,
        "suite_digest": record.suite_digest if record else None,
        "status": record.status if record else "missing",
        "reason": record.reason if record else None,
        **axes,
        "image": None,
        "target_id": None,
        "label": None,
    }
    if slot.done is None:
        return [head]
    done = slot.done
    single = {**done.scalars, **{f"utility.{name}": value for name, value in done.utility.items()}}
    n = max([len(v) for v in done.per_image.values()] + [len(done.targets.get("ids", []))] + [1])
    columns: dict[str, list[Any]] = defaultdict(list)
    columns["target_id"] = list(done.targets.get("ids", []))
    columns["label"] = list(done.targets.get("labels", []))
    columns.update({name: list(values) for name, values in done.per_image.items()})
    for control, metrics in done.controls.items():
        columns.update({f"control.{control}.{name}": list(values) for name, values in metrics.items()})
    rows = []
    for image in range(n):
        values = {name: _at(column, image) for name, column in columns.items()}
        rows.append({**head, "image": image, **values, **single})
    return rows


def _at(column: Sequence[Any], image: int) -> Any:
    # Label and stealing controls are one value for all images.
    if len(column) == 1:
        return column[0]
    return column[image] if image < len(column) else None


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(columns))
    for name in frame.columns:
        if name in WHOLE:
            frame[name] = frame[name].astype("Int64")
    return frame
