"""A run against a baseline: one verdict a cell, and the exit code a continuous integration job needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmark.baseline import (
    EPSILON,
    Baseline,
    entry,
    floor,
    is_number,
    make_baseline,
    measure_tolerance,
    read_baseline,
    write_baseline,
)
from benchmark.cell import Plan
from benchmark.record import Record
from benchmark.rows import Slot, axes_text, slots

__all__ = [
    "Change",
    "Mark",
    "Verdict",
    "compare",
    "exit_code",
    "make_baseline",
    "measure_tolerance",
    "read_baseline",
    "write_baseline",
]

Mark = Literal["better", "worse", "same", "not comparable", "newly failing", "fixed"]


@dataclass(frozen=True)
class Change:
    """One number against its baseline.

    Attributes:
        metric: `utility`, a goal, or `epsilon_` and a view.
        before, now: The numbers; "invalid" or "inf" where an epsilon is no number, None where there is none.
        tolerance: What does not count as a change.
        mark: `better`, `worse`, `same`, `newly failing` or `not comparable`.
        why: Where the mark does not follow from the numbers, what does.
    """

    metric: str
    before: float | str | None
    now: float | str | None
    tolerance: float
    mark: Mark
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of one cell.

    Attributes:
        cell: Where it stands, as `benchmark.rows.axes_text`.
        mark: One of six.
        sentence: Why.
        changes: Its numbers, where they could be compared.
    """

    cell: str
    mark: Mark
    sentence: str
    changes: tuple[Change, ...] = ()


def compare(baseline: Baseline, records: Sequence[Record], plan: Plan) -> list[Verdict]:
    """One verdict for every cell of the plan and of the baseline, sorted by cell.

    Cells are matched by where they stand, not by key: a change of code is what is to be judged.

    Args:
        baseline: As `make_baseline` or `read_baseline` gives it.
        records: The run, in any order.
        plan: What the suite asks for.
    """
    mine = [record for record in records if (record.suite, record.suite_digest) == (plan.suite, plan.suite_digest)]
    planned = {cell.key() for cell in plan.cells}
    now = {axes_text(slot.axes): slot for slot in slots(mine, plan) if slot.key in planned}
    same_suite = (baseline["suite"], baseline["suite_digest"]) == (plan.suite, plan.suite_digest)
    verdicts = []
    for text in sorted({*now, *baseline["cells"]}):
        if not same_suite:
            was, asked = (
                f"{baseline['suite']} {baseline['suite_digest'][:12]}",
                f"{plan.suite} {plan.suite_digest[:12]}",
            )
            verdicts.append(Verdict(text, "not comparable", f"the baseline is of suite {was}, the run of {asked}"))
        else:
            verdicts.append(_verdict(text, baseline["cells"].get(text), now.get(text)))
    return verdicts


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 where nothing is worse, 1 with any regression, 2 where something could not be measured, or nothing was."""
    marks = {verdict.mark for verdict in verdicts}
    if "worse" in marks:
        return 1
    return 2 if not marks or marks & {"not comparable", "newly failing"} else 0


def _verdict(text: str, before: Baseline | None, slot: Slot | None) -> Verdict:
    if before is None:
        return Verdict(text, "not comparable", "the baseline does not have this cell; make a new baseline")
    if slot is None:
        return Verdict(text, "not comparable", "the plan does not have this cell; make a new baseline")
    was_done = before["status"] == "done"
    if slot.done is None:
        why = "there is no record" if slot.record is None else f"{slot.record.status}: {slot.record.reason}"
        mark: Mark = "newly failing" if was_done else "not comparable"
        return Verdict(text, mark, why if was_done else f"it failed in the baseline and still does ({why})")
    found = entry(slot, {})
    if found["status"] != "done":
        return Verdict(text, "newly failing" if was_done else "not comparable", str(found["reason"]))
    if not was_done:
        return Verdict(text, "fixed", "it failed in the baseline and is measured now")
    if (before["targets"], before["n"]) != (found["targets"], found["n"]):
        return Verdict(text, "not comparable", "the targets are not those of the baseline; make a new baseline")
    tolerance = before["tolerance"]
    changes = (
        _change(metric, before["scores"].get(metric), found["scores"].get(metric), tolerance.get(metric, floor(metric)))
        for metric in sorted({*before["scores"], *found["scores"]})
    )
    return _sum(text, tuple(_of_an_attack_that_works(change, before, found) for change in changes))


def _of_an_attack_that_works(change: Change, before: Baseline, now: Baseline) -> Change:
    """The change, unless its attack broke: what it no longer finds may still be there. What it finds counts always."""
    passes = now["planted"].get(change.metric)
    if passes is None or change.mark not in ("better", "same"):
        return change
    if before["planted"].get(change.metric) and not passes:
        return replace(change, mark="newly failing", why="the attack fails its planted clients now")
    if change.mark == "better" and not passes:
        return replace(change, mark="not comparable", why="the attack fails its planted clients, then and now")
    if change.mark == "better" and before["converged"] and not now["converged"]:
        return replace(change, mark="not comparable", why="the attack converged then and does not now")
    return change


def _sum(text: str, changes: Sequence[Change]) -> Verdict:
    # The gravest mark of its numbers is the cell's.
    order: tuple[Mark, ...] = ("worse", "newly failing", "not comparable", "better", "same")
    marks = {change.mark for change in changes}
    mark: Mark = next((mark for mark in order if mark in marks), "not comparable")
    told = [change for change in changes if change.mark == mark]
    sentence = "; ".join(
        f"{change.metric} {_shown(change.before)} -> {_shown(change.now)} (tolerance {change.tolerance:.3g})"
        + (f": {change.why}" if change.why else "")
        for change in told
    )
    return Verdict(text, mark, sentence or "nothing to compare", tuple(changes))


def _change(metric: str, before: float | str | None, now: float | str | None, tolerance: float) -> Change:
    if not is_number(tolerance):
        return Change(metric, before, now, 0.0, "not comparable")
    if metric.startswith(EPSILON):
        return Change(metric, before, now, tolerance, _epsilon_mark(before, now, tolerance))
    if not is_number(before):
        return Change(metric, before, now, tolerance, "not comparable")
    if not is_number(now):
        return Change(metric, before, now, tolerance, "newly failing")
    rise = now - before
    loss = -rise if metric == "utility" else rise
    mark: Mark = "worse" if loss > tolerance else "better" if loss < -tolerance else "same"
    return Change(metric, before, now, tolerance, mark)


def _epsilon_mark(before: float | str | None, now: float | str | None, tolerance: float) -> Mark:
    # No claim and an invalid one protect as little as an infinite epsilon.
    was, is_now = (float(value) if is_number(value) else math.inf for value in (before, now))
    if was == is_now:
        return "same"
    return "worse" if is_now > was + tolerance else "better" if is_now < was - tolerance else "same"


def _shown(value: float | str | None) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else f"{value:.4f}"
