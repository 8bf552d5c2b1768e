from __future__ import annotations

from typing import Any

import pytest

from benchmark.leaderboard import leaderboard
from benchmark.record import Record
from benchmark.report.tables import render
from tests.flagged import flags, ranked
from tests.record_factory import evidence, record, records
from tests.test_leaderboard import LABELS, every_stance, seeds

UNSETTLED: dict[str, Any] = {"convergence": {"converged": False, "steps": 9}}
FAILED: dict[str, Any] = {"flags": ["planted_client_failed"]}


def test_a_defended_row_that_met_every_stance_has_no_fatal_flag() -> None:
    found = records(seeds()) + records(every_stance("noise"), ssim=0.4)
    assert {code: severity for code, (severity, _) in flags(found, "noise").items()} == {"identified_anyway": "caution"}
    assert ranked(found, "noise")


@pytest.mark.parametrize("stance", ["oblivious", "aware", "adaptive"])
def test_a_defended_row_that_never_met_a_stance_is_unranked(stance: str) -> None:
    met = [one for one in every_stance("noise") if one.stance != stance]
    found = records(seeds()) + records(met, ssim=0.4)
    assert flags(found, "noise")["stance_missing"] == ("fatal", f"no done attack is {stance}")
    assert not ranked(found, "noise")


def test_a_stance_that_was_planned_and_is_not_done_is_missing() -> None:
    done = [one for one in every_stance("noise") if one.stance != "aware"]
    failed = [record(one, status="failed") for one in seeds("noise", stance="aware")]
    assert flags(records(done) + failed, "noise")["stance_missing"] == ("fatal", "no done attack is aware")


def test_no_defense_needs_the_oblivious_stance_alone() -> None:
    assert "stance_missing" not in flags(records(seeds()))


def test_stances_are_asked_for_in_every_table() -> None:
    labels = records(every_stance(**LABELS)) + records(seeds("flip", **LABELS))
    assert flags(labels, "flip")["stance_missing"] == ("fatal", "no done attack is aware or adaptive")


def test_a_row_without_a_settled_attack_of_each_stance_is_a_lower_bound() -> None:
    settled = [one for one in every_stance("noise") if one.stance != "adaptive"]
    unsettled = seeds("noise", stance="adaptive")
    found = records(seeds()) + records(settled, ssim=0.4) + records(unsettled, ssim=0.3, **UNSETTLED)
    assert flags(found, "noise")["not_established"] == (
        "fatal",
        "no adaptive attack converged in all cells and passes its planted clients",
    )
    assert "| — | 1 | noise | pool1 | 0.975 | 0.000 | ≥ " in render(leaderboard(found), "md")


def test_another_settled_attack_of_the_stance_establishes_the_row() -> None:
    unsettled = records(seeds("noise", stance="adaptive"), ssim=0.3, **UNSETTLED)
    settled = records([*every_stance("noise"), *seeds("noise", attack="other", stance="adaptive")], ssim=0.4)
    found = records(seeds()) + [one for one in settled if one.key not in {u.key for u in unsettled}] + unsettled
    assert "not_established" not in flags(found, "noise")


def test_the_attack_that_leaks_most_must_have_settled_itself() -> None:
    found = records(every_stance("noise"), ssim=0.3) + records(
        seeds("noise", attack="other", stance="adaptive"), ssim=0.5, **UNSETTLED
    )
    assert flags(found, "noise")["not_established"] == (
        "fatal",
        "other:clone=joint, which leaks most, converged in 0% of its cells",
    )


def test_an_attack_that_fails_planted_clients_establishes_nothing() -> None:
    passing = [one for one in every_stance("noise") if one.stance != "aware"]
    found = records(passing, ssim=0.4) + records(seeds("noise", stance="aware"), ssim=0.4, **FAILED)
    assert flags(found, "noise")["not_established"] == (
        "fatal",
        "no aware attack converged in all cells and passes its planted clients",
    )
    assert flags(found, "noise")["planted_failed_by_some"] == ("caution", "not passed by unsplit:clone=joint (aware)")


def test_an_attack_that_fails_planted_clients_still_leaks_what_it_leaks() -> None:
    found = records(every_stance("noise"), ssim=0.3) + records(
        seeds("noise", attack="other", stance="adaptive"), ssim=0.6, **FAILED
    )
    board = leaderboard(found).rows.iloc[0]
    assert board["worst_attack"] == "other:clone=joint"
    assert board["ssim_aligned"] == pytest.approx(0.6)
    assert flags(found, "noise")["not_established"] == (
        "fatal",
        "other:clone=joint, which leaks most, does not pass its planted clients",
    )


def test_an_attack_nobody_tried_on_planted_clients_has_not_passed_them() -> None:
    found = records(seeds(), flags=["planted_client_unknown"])
    assert flags(found)["planted_client_failed"] == ("fatal", "no attack of the row passes its planted clients")


def test_planted_clients_are_passed_for_each_goal_apart() -> None:
    found = records(seeds(goals=("reconstruct", "steal")), flags=["planted_client_failed"])
    for one in found:
        one.run["planted"] = {"passed": False, "goals": {"reconstruct": True, "steal": False}}
    notes = leaderboard(found).notes
    assert set(notes[notes["flag"] == "planted_client_failed"]["goal"]) == {"client_model"}


def watched(found: list[Record]) -> list[Record]:
    for one in found:
        one.evidence["watched"] = True
    return found


def test_a_row_that_was_not_attacked_in_training_is_pointed_out_where_training_was_watched() -> None:
    found = watched(records(seeds()) + records(every_stance("noise"), ssim=0.4))
    assert flags(found, "noise")["phase_missing"] == ("caution", "no done attack in phase training")
    assert ranked(found, "noise")
    assert "phase_missing" not in flags(found, "none")


def test_a_row_attacked_in_both_phases_misses_none() -> None:
    both = every_stance("noise") + every_stance("noise", phase="training")
    assert "phase_missing" not in flags(watched(records(both)), "noise")


def test_a_phase_that_others_of_the_table_were_attacked_in_is_missing_too() -> None:
    found = records(seeds() + seeds(phase="training")) + records(every_stance("noise", phase="training"), ssim=0.4)
    assert flags(found, "noise")["phase_missing"] == ("caution", "no done attack in phase inference")


def test_a_missing_phase_in_which_nothing_is_defended_says_so() -> None:
    bare = evidence("noise", training={"inactive": True})
    found = watched(records(every_stance("noise"), ssim=0.4, evidence=bare))
    assert flags(found, "noise")["phase_missing"][1] == (
        "no done attack in phase training; its hooks of training leave the head's output as it is, bit by bit"
    )
