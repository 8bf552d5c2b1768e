"""The table beside the leaderboard: every attack on every defense with all its metrics, and the controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmark.attack_score import SCORED_BY, attack_score, passes_planted
from benchmark.metrics.statistics import wilson
from benchmark.record import Record
from benchmark.record_values import NAN, READINGS, image_mean, number, slot_mean, victim_means
from benchmark.rows import GOALS, Slot, configurations, threat_model_order

IMAGE_METRICS = (
    "ssim_aligned", "ssim_raw", "psnr_aligned", "psnr_raw", "mse_aligned", "mse_raw", "correlation",
)  # fmt: skip
PLACE = ("dataset", "model", "topology", "tail", "victim", "cut", "cut_reached", "defense", "params", "side")
ATTACK_COLUMNS = (
    *PLACE, "attack", "attack_params", "role", "stance", "phase", "views", "threat_model", "goals", "targets",
    "precision", "leakage", *IMAGE_METRICS, "label_accuracy", "label_accuracy_low", "label_accuracy_high",
    "label_advantage", "steal_accuracy", "steal_agreement", "steal_advantage", "utility", "utility_drop", "controls",
    "converged", "seconds", "n_done", "n_planned", "n_seeds", "planted", *READINGS,
)  # fmt: skip

CONTROL_METRICS = {
    "reconstruct": {metric: metric for metric in IMAGE_METRICS}
    | {"identification": "identified", "recognition": "recognised"},
    "infer_labels": {"label_accuracy": "accuracy"},
    "steal": {"steal_accuracy": "steal_accuracy", "steal_agreement": "steal_agreement"},
}
HELD_AGAINST = ("identification_chance", "recognition_of_truth")


class Place(NamedTuple):
    """A defended victim, but for its seed."""

    dataset: str
    model: str
    topology: str
    tail: str | None
    victim: str
    cut: str
    cut_reached: str
    defense: str
    params: str
    side: str


def attack_rows(found: Sequence[Slot]) -> list[dict[str, Any]]:
    """One row for each defense and way to attack, over all seeds, then one for each control; columns `ATTACK_COLUMNS`.

    Means over an incomplete set of cells are NaN. Nothing here is ranked. Label accuracies carry Wilson's interval
    over distinct images.
    """
    groups: dict[Place, list[Slot]] = defaultdict(list)
    for slot in found:
        groups[Place(**{name: getattr(slot.axes, name) for name in PLACE})].append(slot)
    rows = []
    for place in sorted(groups, key=lambda p: (*p[:3], p.tail or "", *p[4:6], p.defense != "none", *p[6:])):
        by_attack = configurations(groups[place])
        order = sorted(by_attack, key=lambda key: (key.role, threat_model_order(key.threat_model), key))
        rows += [{**place._asdict(), **key._asdict(), **_attack(by_attack[key])} for key in order]
        rows += [{**place._asdict(), **control} for control in _controls(groups[place])]
    return rows


def _attack(found: Sequence[Slot]) -> dict[str, Any]:
    records = [slot.done for slot in found if slot.done is not None]
    complete = len(records) == len(found)
    goals = found[0].axes.goals
    advantages = {"reconstruct": "leakage", "infer_labels": "label_advantage", "steal": "steal_advantage"}
    scores = {goal: attack_score(records, GOALS[goal]) for goal in goals} if complete else {}
    row: dict[str, Any] = {
        "goals": "+".join(goals),
        **{name: slot_mean(found, _image(name)) for name in IMAGE_METRICS},
        "label_accuracy": slot_mean(found, _image("correct")),
        **{name: slot_mean(found, _scalar(name)) for name in ("steal_accuracy", "steal_agreement")},
        **{advantages[goal]: score.score for goal, score in scores.items()},
        "utility": victim_means(found, lambda r: number(r.utility, "accuracy"))[0],
        "utility_drop": victim_means(
            found, lambda r: number(r.utility, "undefended_accuracy") - number(r.utility, "accuracy")
        )[0],
        "controls": "; ".join(
            f"{name} {value:.3f}" for goal in goals if complete for name, value in _control_means(records, goal)
        ),
        "converged": next((score.converged for score in scores.values()), NAN),
        "seconds": slot_mean(found, lambda r: number(r.run, "seconds")),
        "planted": _planted(records, goals),
        **{name: slot_mean(found, value) for name, value in READINGS.items()},
        **_counts(found),
    }
    if "leakage" in row:
        row["leakage"] = float(np.clip(row["leakage"], 0.0, 1.0))
    if np.isfinite(row["label_accuracy"]):
        trials = min(len(record.per_image["correct"]) for record in records)
        low, high = wilson(round(row["label_accuracy"] * trials), trials)
        row |= {"label_accuracy_low": low, "label_accuracy_high": high}
    return row


def _planted(records: Sequence[Record], goals: Sequence[str]) -> str | None:
    """Whether the attack passed its planted clients: `passed`, or `failed` and for which of its goals."""
    if not records:
        return None
    failed = [goal for goal in goals if not all(passes_planted(record, GOALS[goal]) for record in records)]
    return f"failed: {'+'.join(failed)}" if failed else "passed"


def _control_means(records: Sequence[Record], goal: str) -> list[tuple[str, float]]:
    names = _control_names(records, goal)
    return [(name, float(np.mean([_control(r, name, SCORED_BY[GOALS[goal]]) for r in records]))) for name in names]


def _control_names(records: Sequence[Record], goal: str) -> list[str]:
    metric = SCORED_BY[GOALS[goal]]
    return sorted({name for record in records for name, metrics in record.controls.items() if metric in metrics})


def _controls(found: Sequence[Slot]) -> list[dict[str, Any]]:
    # A control attacks nothing: it depends on the targets and, for labels, on what is known, never on the attack.
    groups: dict[tuple[str, str, str, str], list[Slot]] = defaultdict(list)
    for slot in found:
        for goal in slot.axes.goals:
            knowledge = slot.axes.threat_model if goal == "infer_labels" else ""
            groups[goal, slot.axes.phase, slot.axes.targets, knowledge].append(slot)
    rows = []
    for goal, phase, targets, threat_model in sorted(groups):
        members = groups[goal, phase, targets, threat_model]
        done = [slot.done for slot in members if slot.done is not None]
        for name in _control_names(done, goal):
            means = {
                column: slot_mean(members, _of_control(name, metric))
                for column, metric in CONTROL_METRICS[goal].items()
            }
            row = {"attack": name, "role": "control", "goals": goal, "phase": phase, "targets": targets}
            beside = {name: slot_mean(members, READINGS[name]) for name in HELD_AGAINST if goal == "reconstruct"}
            rows.append({**row, "threat_model": threat_model or None, **means, **beside, **_counts(members)})
    return rows


def _counts(found: Sequence[Slot]) -> dict[str, int]:
    return {
        "n_done": sum(slot.done is not None for slot in found),
        "n_planned": len(found),
        "n_seeds": len({slot.axes.seed for slot in found if slot.done is not None}),
    }


def _control(record: Record, name: str, metric: str) -> float:
    values = record.controls.get(name, {}).get(metric)
    return float(np.mean(values)) if values else NAN


def _of_control(name: str, metric: str) -> Callable[[Record], float]:
    return lambda record: _control(record, name, metric)


def _image(metric: str) -> Callable[[Record], float]:
    return lambda record: image_mean(record, metric)


def _scalar(name: str) -> Callable[[Record], float]:
    return lambda record: number(record.scalars, name)
