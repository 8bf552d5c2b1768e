from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.baseline import FORMAT
from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.gate import Verdict, compare, exit_code, make_baseline, measure_tolerance, read_baseline, write_baseline
from benchmark.record import Record
from benchmark.rows import axes_text
from tests.record_factory import cell, plan, record, records
from tests.test_leaderboard import LABELS, claim, seeds

CELLS = seeds(n=2, goals=("reconstruct", "steal"))


def verdicts(now: list[Record], before: list[Record] | None = None, cells: list[Cell] = CELLS) -> list[Verdict]:
    baseline = make_baseline(records(cells) if before is None else before, plan=plan(cells))
    return compare(baseline, now, plan(cells))


def marks(found: list[Verdict]) -> list[str]:
    return [verdict.mark for verdict in found]


def test_the_same_run_is_the_same_and_passes() -> None:
    found = verdicts(records(CELLS))
    assert marks(found) == ["same", "same"]
    assert exit_code(found) == 0


def test_more_leakage_is_worse_and_fails() -> None:
    found = verdicts(records(CELLS, ssim=0.75))
    assert marks(found) == ["worse", "worse"]
    assert found[0].sentence.startswith("inputs 0.5395 -> 0.67")
    assert exit_code(found) == 1


def test_less_leakage_is_better_and_passes() -> None:
    found = verdicts(records(CELLS, ssim=0.5))
    assert marks(found) == ["better", "better"]
    assert exit_code(found) == 0


def test_less_utility_is_worse_and_fails() -> None:
    found = verdicts(records(CELLS, utility=0.95, clone=0.877))
    assert marks(found) == ["worse", "worse"]
    assert "utility 0.9750 -> 0.9500" in found[0].sentence
    assert exit_code(found) == 1


def test_more_utility_is_better() -> None:
    found = verdicts(records(seeds()), before=records(seeds(), utility=0.9), cells=seeds())
    assert marks(found) == ["better"] * 3


def test_worse_in_one_number_outweighs_better_in_another() -> None:
    assert marks(verdicts(records(CELLS, ssim=0.3, utility=0.9))) == ["worse", "worse"]


def test_a_better_clone_is_worse() -> None:
    assert marks(verdicts(records(CELLS, clone=0.97))) == ["worse", "worse"]


def test_more_labels_inferred_is_worse() -> None:
    cells = seeds(**LABELS)
    found = verdicts(records(cells, labels=0.5), before=records(cells, labels=0.3), cells=cells)
    assert marks(found) == ["worse"] * 3


def test_a_change_within_tolerance_is_the_same() -> None:
    assert marks(verdicts(records(CELLS, ssim=0.66, utility=0.97, clone=0.9))) == ["same", "same"]


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_cell_that_fails_now_is_newly_failing_and_does_not_pass(status: Any) -> None:
    found = verdicts([record(CELLS[0]), record(CELLS[1], status=status)])
    assert sorted(marks(found)) == ["newly failing", "same"]
    assert exit_code(found) == 2


def test_a_missing_cell_never_passes() -> None:
    found = verdicts(records(CELLS[:1]))
    assert sorted(marks(found)) == ["newly failing", "same"]
    assert exit_code(found) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_never_passes(value: float) -> None:
    now = records(CELLS)
    now[0].per_image["ssim_aligned"][0] = value
    assert sorted(marks(verdicts(now))) == ["newly failing", "same"]


@pytest.mark.parametrize("lost", ["per_image", "controls", "scalars", "utility"])
def test_a_lost_metric_never_passes(lost: str) -> None:
    found = verdicts([replace(one, **{lost: {}}) for one in records(CELLS)])
    assert marks(found) == ["newly failing", "newly failing"]


def test_a_regression_fails_also_where_something_else_could_not_be_measured() -> None:
    found = verdicts([record(CELLS[0], ssim=0.8)])
    assert sorted(marks(found)) == ["newly failing", "worse"]
    assert exit_code(found) == 1


def test_a_cell_that_failed_in_the_baseline_and_is_measured_now_is_fixed() -> None:
    before = [record(CELLS[0]), record(CELLS[1], status="failed")]
    found = verdicts(records(CELLS), before)
    assert sorted(marks(found)) == ["fixed", "same"]
    assert exit_code(found) == 0


def test_a_cell_that_failed_in_the_baseline_and_still_does_never_passes() -> None:
    failed = [record(one, status="failed") for one in CELLS]
    found = verdicts(failed, failed)
    assert marks(found) == ["not comparable", "not comparable"]
    assert exit_code(found) == 2


def test_other_targets_are_not_comparable() -> None:
    other = [replace(one, targets={**one.targets, "digest": "b" * 64}) for one in records(CELLS)]
    found = verdicts(other)
    assert marks(found) == ["not comparable", "not comparable"]
    assert exit_code(found) == 2


def test_another_version_of_the_suite_is_not_comparable() -> None:
    now = [replace(one, suite_digest="6" * 64) for one in records(CELLS)]
    found = compare(make_baseline(records(CELLS)), now, plan(CELLS, digest="6" * 64))
    assert marks(found) == ["not comparable", "not comparable"]
    assert exit_code(found) == 2


def test_a_cell_that_the_baseline_does_not_have_is_not_comparable() -> None:
    cells = [*CELLS, cell("mine", goals=("reconstruct", "steal"))]
    found = compare(make_baseline(records(CELLS)), records(cells), plan(cells))
    assert sorted(marks(found)) == ["not comparable", "same", "same"]


def test_a_cell_that_the_plan_no_longer_has_is_not_comparable() -> None:
    found = compare(make_baseline(records(CELLS)), records(CELLS), plan(CELLS[:1]))
    assert sorted(marks(found)) == ["not comparable", "same"]


def test_a_goal_that_the_baseline_does_not_have_is_not_comparable() -> None:
    baseline = make_baseline(records(CELLS))
    for entry in baseline["cells"].values():
        del entry["scores"]["client_model"]
    assert marks(compare(baseline, records(CELLS), plan(CELLS))) == ["not comparable", "not comparable"]


def test_no_verdict_at_all_never_passes() -> None:
    assert exit_code([]) == 2


def test_another_version_of_the_code_is_what_is_judged() -> None:
    # The key holds a digest of the plug-in's code; the place does not.
    newer = [replace(c, attack=replace(c.attack, digest="edited")) for c in CELLS]
    found = compare(make_baseline(records(CELLS)), records(newer), plan(newer))
    assert marks(found) == ["same", "same"]


@pytest.mark.parametrize(
    ("before", "now", "mark"),
    [
        (1.0, 1.0, "same"),
        (1.0, 4.0, "worse"),
        (4.0, 1.0, "better"),
        (1.0, None, "worse"),
        (None, 1.0, "better"),
        (None, None, "same"),
        (1.0, "inf", "worse"),
        ("inf", 1.0, "better"),
        ("inf", "inf", "same"),
    ],
)
def test_a_weaker_claim_of_privacy_is_worse(before: float | str | None, now: float | str | None, mark: str) -> None:
    cells = seeds("dp_sgd", n=1)
    found = verdicts(records(cells, privacy=[claim(now)]), before=records(cells, privacy=[claim(before)]), cells=cells)
    assert marks(found) == [mark]


def test_a_claim_that_is_withdrawn_is_worse() -> None:
    cells = seeds("dp_sgd", n=1)
    assert marks(verdicts(records(cells), before=records(cells, privacy=[claim(1.0)]), cells=cells)) == ["worse"]


def test_a_measured_tolerance_is_twice_the_largest_move_of_the_same_defense_under_the_same_attack() -> None:
    cells = [*seeds(n=2), *seeds("noise", n=1), *seeds(n=1, cut="pool2")]
    moved = [record(one, ssim=0.65 + move) for one, move in zip(cells, (0.01, -0.15, 0.0, 0.001), strict=True)]
    measured = measure_tolerance(records(cells), moved)
    by_cell = [measured[axes_text(one.axes())]["inputs"] for one in cells]
    assert by_cell == pytest.approx([0.3 / 0.76] * 2 + [0.0, 0.002 / 0.76], abs=4e-3)


def test_a_measured_tolerance_widens_the_floor_and_never_narrows_it() -> None:
    place = axes_text(CELLS[0].axes())
    baseline = make_baseline(records(CELLS), {place: {"inputs": 0.2, "utility": 1e-9}})
    assert baseline["cells"][place]["tolerance"]["inputs"] == 0.2
    assert baseline["cells"][place]["tolerance"]["utility"] == 0.01
    assert marks(compare(baseline, records(CELLS, ssim=0.75), plan(CELLS))) == ["same", "worse"]


def test_a_baseline_is_the_same_file_whatever_the_order_of_the_records(tmp_path: Path) -> None:
    found = records(CELLS)
    write_baseline(make_baseline(found), tmp_path / "a.json")
    write_baseline(make_baseline(random.Random(1).sample(found, len(found))), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_baseline(tmp_path / "a.json") == make_baseline(found)


def test_a_baseline_says_what_it_was_made_with() -> None:
    baseline = make_baseline(records(CELLS))
    assert (baseline["suite"], baseline["suite_digest"]) == ("smoke-v1", "5" * 64)
    assert baseline["versions"]["torch"] == "2.14.1"
    assert {entry["n"] for entry in baseline["cells"].values()} == {20}


def test_a_number_that_is_none_enters_a_baseline_as_a_failure(tmp_path: Path) -> None:
    found = records(CELLS[:1])
    found[0].per_image["ssim_aligned"][0] = float("nan")
    write_baseline(make_baseline(found), tmp_path / "baseline.json")
    (entry,) = read_baseline(tmp_path / "baseline.json")["cells"].values()
    assert (entry["status"], entry["scores"]) == ("failed", {})
    assert entry["reason"] == "no finite number for inputs"


def test_a_baseline_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="would pass everything"):
        make_baseline([])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a baseline"),
        ("[]", "'format' is missing"),
        ('{"format": 1, "suite": "s", "suite_digest": "d", "versions": {}}', "'cells' is missing"),
        ('{"format": 9, "suite": "s", "suite_digest": "d", "versions": {}, "cells": {}}', "format 9 is not 2"),
        ('{"format": 2, "suite": "s", "suite_digest": "d", "versions": {}, "cells": {"c": {}}}', "cell 'c' is not"),
        ('{"format": NaN}', "it holds NaN"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused_in_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_baseline(path)
    assert str(path) in str(caught.value)
    assert "unsplit-bench baseline" in str(caught.value)


def test_a_missing_baseline_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: the baseline cannot be read"):
        read_baseline(tmp_path / "none.json")


def test_a_tolerance_beyond_every_number_does_not_let_a_regression_pass(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    text = json.dumps(make_baseline(records(seeds()), {axes_text(one.axes()): {"utility": 0.5} for one in seeds()}))
    path.write_text(text.replace('"utility": 0.5', '"utility": 1e999'))
    found = compare(read_baseline(path), records(seeds(), utility=0.2), plan(seeds()))
    assert marks(found) == ["not comparable"] * 3
    assert exit_code(found) == 2


@pytest.mark.parametrize("key", ["scores", "tolerance", "planted"])
def test_a_cell_whose_numbers_are_no_mapping_is_refused(key: str, tmp_path: Path) -> None:
    entry = {"status": "done", "targets": None, "n": 0, "scores": {}, "tolerance": {}, "planted": {}, "converged": True}
    entry |= {key: "0.1"}
    text = {"format": FORMAT, "suite": "s", "suite_digest": "d", "versions": {}, "cells": {"a": entry}}
    (tmp_path / "b.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match=r"b\.json: cell 'a': scores, tolerance and planted must be mappings"):
        read_baseline(tmp_path / "b.json")


BROKEN = {"flags": ["planted_client_failed"]}
AT_REST = {"trace": {}, "steps": 100, "converged": True}
ADRIFT = {**AT_REST, "converged": False}


@pytest.mark.parametrize("ssim", [0.3, 0.65])
def test_an_attack_that_broke_is_newly_failing_however_little_it_finds(ssim: float) -> None:
    found = verdicts(records(CELLS, ssim=ssim, **BROKEN))
    assert marks(found) == ["newly failing", "newly failing"]
    assert "the attack fails its planted clients now" in found[0].sentence
    assert exit_code(found) == 2


def test_an_attack_that_broke_and_still_finds_more_is_worse() -> None:
    assert marks(verdicts(records(CELLS, ssim=0.8, **BROKEN))) == ["worse", "worse"]


def test_an_attack_that_breaks_at_one_goal_is_newly_failing_by_that_goal() -> None:
    run = {"planted": {"passed": False, "goals": {"reconstruct": True, "steal": False}}}
    found = verdicts(records(CELLS, ssim=0.3, run=run))
    assert {change.metric: change.mark for change in found[0].changes} == {
        "client_model": "newly failing",
        "inputs": "better",
        "utility": "same",
    }


def test_an_attack_that_never_passed_makes_nothing_better() -> None:
    found = verdicts(records(CELLS, ssim=0.3, **BROKEN), before=records(CELLS, **BROKEN))
    assert marks(found) == ["not comparable", "not comparable"]
    assert marks(verdicts(records(CELLS, **BROKEN), before=records(CELLS, **BROKEN))) == ["same", "same"]


def test_an_attack_that_converged_and_no_longer_does_makes_nothing_better() -> None:
    before = records(CELLS, convergence=AT_REST)
    found = verdicts(records(CELLS, ssim=0.3, convergence=ADRIFT), before=before)
    assert marks(found) == ["not comparable", "not comparable"]
    assert "the attack converged then and does not now" in found[0].sentence
    assert exit_code(found) == 2


def test_an_attack_that_no_longer_converges_at_the_same_score_is_the_same() -> None:
    found = verdicts(records(CELLS, convergence=ADRIFT), before=records(CELLS, convergence=AT_REST))
    assert marks(found) == ["same", "same"]


def test_an_attack_that_never_converged_is_judged_by_its_numbers() -> None:
    found = verdicts(records(CELLS, ssim=0.3, convergence=ADRIFT), before=records(CELLS, convergence=ADRIFT))
    assert marks(found) == ["better", "better"]


def test_a_baseline_says_whether_each_attack_passed_and_converged() -> None:
    entry = make_baseline(records(CELLS), plan=plan(CELLS))["cells"][axes_text(CELLS[0].axes())]
    assert (entry["planted"], entry["converged"]) == ({"inputs": True, "client_model": True}, True)
