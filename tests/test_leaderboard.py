from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.leaderboard import COLUMNS, images_frame, leaderboard, on_front
from benchmark.record import Record
from benchmark.rows import axes_text, includes
from benchmark.standing import STANCES
from tests.record_factory import CONTROLS, UNDEFENDED, cell, plan, record, records

DECODER: dict[str, Any] = {
    "attack": "inverse_decoder",
    "attack_params": "",
    "threat_model": "architecture+auxiliary+query",
}
KNOWN: dict[str, Any] = {
    "attack": "known_client",
    "attack_params": "",
    "threat_model": "white box",
    "role": "reference",
}
LABELS: dict[str, Any] = {
    "attack": "label_matching",
    "attack_params": "observes=cut_gradient",
    "goals": ("infer_labels",),
    "phase": "training",
    "topology": "u_shaped",
    "tail": "fc3",
    "side": "labels",
}
BEST_CONTROL = max(CONTROLS.values())


def seeds(*names: Any, n: int = 3, **changes: Any) -> list[Cell]:
    return [cell(*names, seed=seed, **changes) for seed in range(n)]


def every_stance(*names: Any, **changes: Any) -> list[Cell]:
    """What a defended row must have met before it can be ranked."""
    return [one for stance in STANCES for one in seeds(*names, stance=stance, **changes)]


def by_seed(cells: list[Cell], metric: str, values: Sequence[float]) -> list[Record]:
    """Records of cells, victim seed i with values[i]."""
    return [record(one, **{metric: values[one.victim.seed]}) for one in cells]


def rows(found: list[Record], of: list[Cell] | None = None) -> list[dict[str, Any]]:
    return leaderboard(found, plan(of) if of else None).rows.to_dict(orient="records")


def test_the_columns_are_the_promised_ones_in_their_order() -> None:
    promised = (
        "rank, tier, goal, defense, side, dataset, model, topology, cut, utility, utility_drop, leakage, leakage_low, "
        "leakage_high, worst_attack, ssim_aligned, psnr_aligned, mse_raw, label_advantage, steal_advantage, "
        "epsilon_activations, epsilon_weights, epsilon_labels, cost_bytes, cost_time, flags, n_done, n_planned, "
        "params, tail, victim, threat_model, control, white_box, leakage_p95, leakage_max, n_seeds"
    )
    assert list(leaderboard(records(seeds())).rows.columns)[:37] == promised.split(", ") == list(COLUMNS)[:37]


def test_leakage_is_the_mean_above_the_best_control_over_what_is_left_above_it() -> None:
    (row,) = rows(records(seeds()))
    assert row["leakage"] == pytest.approx((UNDEFENDED - BEST_CONTROL) / (1 - BEST_CONTROL))
    assert row["leakage_low"] < row["leakage"] < row["leakage_high"]
    assert row["ssim_aligned"] == pytest.approx(UNDEFENDED)
    assert row["control"] == "train_mean 0.240"


def test_the_most_exposed_images_leak_more_than_the_mean() -> None:
    (row,) = rows(records(seeds()))
    assert row["leakage"] < row["leakage_p95"] < row["leakage_max"] <= 1


def test_the_worst_attack_counts() -> None:
    weak, strong = seeds(), seeds(attack_params="clone=joint,restarts=16")
    (row,) = rows(records(weak, ssim=0.4) + records(strong, ssim=0.7))
    assert row["worst_attack"] == "unsplit:clone=joint,restarts=16"
    assert row["ssim_aligned"] == pytest.approx(0.7)
    assert row["n_done"] == 6


def test_identification_and_recognition_are_those_of_the_worst_attack_beside_what_they_are_held_against() -> None:
    weak = seeds(attack_params="clone=per_target")
    (row,) = rows([*records(weak, ssim=0.1), *records(seeds(), ssim=0.9)])
    assert (row["identification"], row["identification_chance"]) == (1.0, 0.01)
    assert (row["recognition"], row["recognition_of_truth"]) == (1.0, 0.9)


def test_an_attack_that_identifies_more_than_the_worst_one_by_ssim_is_not_lost() -> None:
    noisy = records(seeds(attack_params="clone=per_target"), ssim=0.1)
    seen = [replace(one, per_image={**one.per_image, "identified": [1.0] * 20}) for one in noisy]
    (row,) = rows([*records(seeds(), ssim=0.25), *seen])
    assert row["identification"] < 0.5
    assert row["identification_max"] == 1.0
    assert row["recognition_max"] == row["recognition"]


def test_records_that_know_nothing_of_identification_leave_a_gap() -> None:
    old = [replace(one, per_image={"ssim_aligned": one.per_image["ssim_aligned"]}) for one in records(seeds())]
    (row,) = rows([replace(one, scalars={}) for one in old])
    assert math.isfinite(row["leakage"])
    assert all(math.isnan(row[name]) for name in COLUMNS if name.startswith(("identification", "recognition")))


def test_a_stronger_threat_model_includes_the_weaker_attacks_and_not_the_other_way_round() -> None:
    found = records(seeds(), ssim=0.7) + records(seeds(**DECODER), ssim=0.5)
    worst = {row["threat_model"]: (row["worst_attack"], row["n_done"]) for row in rows(found)}
    assert worst == {
        "architecture": ("unsplit:clone=joint", 3),
        "architecture+auxiliary+query": ("unsplit:clone=joint", 6),
    }


@pytest.mark.parametrize(
    ("granted", "needed", "expected"),
    [
        ("architecture+auxiliary+query", "architecture+query", True),
        ("architecture+query", "architecture+auxiliary", False),
        ("architecture+k labels", "architecture", True),
        ("white box", "architecture", False),
        ("weight gradients", "architecture", False),
        ("weight gradients", "weight gradients", True),
    ],
)
def test_threat_models_are_ordered_by_inclusion(granted: str, needed: str, expected: bool) -> None:
    assert includes(granted, needed) is expected


def test_stances_and_phases_share_a_row_and_the_worst_of_them_counts() -> None:
    found = records(seeds(), ssim=0.3) + records(seeds(stance="adaptive", phase="training", views=3), ssim=0.6)
    (row,) = rows(found)
    assert row["ssim_aligned"] == pytest.approx(0.6)


def test_the_white_box_is_a_column_and_never_a_row() -> None:
    (row,) = rows(records(seeds(), ssim=0.4) + records(seeds(**KNOWN), ssim=0.65))
    assert row["white_box"] == pytest.approx((0.65 - BEST_CONTROL) / (1 - BEST_CONTROL))
    assert row["worst_attack"] == "unsplit:clone=joint"
    assert row["n_planned"] == 3


def test_an_incomplete_white_box_is_a_gap_and_leaves_the_row_ranked() -> None:
    cells = seeds() + seeds(**KNOWN)
    (row,) = rows(records(cells[:-1]), cells)
    assert pd.isna(row["white_box"])
    assert row["rank"] == 1


def test_attacks_on_weight_gradients_never_enter_another_row() -> None:
    weight = {**LABELS, "attack_params": "observes=weight_gradient", "threat_model": "weight gradients"}
    found = records(seeds(**LABELS), labels=0.2) + records(seeds(**weight), labels=1.0)
    advantages = {row["threat_model"]: row["label_advantage"] for row in rows(found)}
    assert advantages == pytest.approx({"architecture": 0.1 / 0.9, "weight gradients": 1.0})


def test_labels_are_scored_by_their_advantage_over_the_best_control() -> None:
    (row,) = rows(records(seeds(**LABELS), labels=0.55))
    assert row["goal"] == "labels"
    assert row["label_advantage"] == row["leakage"] == pytest.approx(0.5)
    assert pd.isna(row["steal_advantage"])
    assert pd.isna(row["leakage_p95"])


def test_no_label_inferred_still_leaves_a_width_above() -> None:
    (row,) = rows(records(seeds(**LABELS), labels=0.0))
    assert (row["leakage"], row["leakage_low"]) == (0.0, 0.0)
    # Wilson: 0 of 20 may be .161; beside chance .1 that is .068 of the way.
    assert row["leakage_high"] == pytest.approx((0.1611 - 0.1) / 0.9, abs=1e-4)
    assert row["label_advantage"] == pytest.approx(-1 / 9)


def test_a_clone_is_scored_between_a_random_one_and_the_victim() -> None:
    (row,) = rows(records(seeds(goals=("steal",)), clone=0.5, utility=0.975))
    assert row["goal"] == "client_model"
    assert row["steal_advantage"] == pytest.approx((0.5 - 0.12) / (0.975 - 0.12))


def test_one_cell_answers_for_each_of_its_goals() -> None:
    found = rows(records(seeds(goals=("reconstruct", "steal"))))
    assert [row["goal"] for row in found] == ["inputs", "client_model"]


def test_a_missing_cell_is_a_gap_and_unranks_its_row() -> None:
    cells = seeds() + seeds("gaussian_noise", "sigma=2")
    none, noise = rows(records(cells[:-1], ssim=0.3), cells)
    assert (none["rank"], none["n_done"], none["n_planned"]) == (1, 3, 3)
    assert pd.isna(noise["rank"])
    assert all(pd.isna(noise[name]) for name in ("leakage", "leakage_low", "leakage_high", "worst_attack", "control"))
    assert all(pd.isna(noise[name]) for name in ("ssim_aligned", "psnr_aligned", "mse_raw", "leakage_max", "utility"))
    assert (noise["n_done"], noise["n_planned"]) == (2, 3)
    assert "incomplete" in noise["flags"]


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_cell_that_is_not_done_is_never_averaged_away(status: Any) -> None:
    cells = seeds()
    (row,) = rows([*records(cells[:2]), record(cells[2], status=status)], cells)
    assert row["n_done"] == 2
    assert pd.isna(row["leakage"])
    assert pd.isna(row["rank"])


def test_a_failed_attack_leaves_a_gap_even_where_a_worse_one_is_done() -> None:
    (row,) = rows(records(seeds(), ssim=0.7) + [record(one, status="failed") for one in seeds(attack="other")])
    assert pd.isna(row["leakage"])


def test_utility_stands_where_every_victim_was_measured_by_some_cell() -> None:
    cells = seeds(n=2) + seeds(attack="other", n=2)
    (row,) = rows(records(cells[:3], utility=0.95), cells)
    assert row["utility"] == pytest.approx(0.95)


def test_a_defense_that_nothing_was_measured_of_claims_nothing() -> None:
    cells = seeds("dp_sgd")
    (row,) = rows([], cells)
    assert pd.isna(row["epsilon_weights"])


def claim(epsilon: float | str | None, view: str = "weights", **changes: Any) -> dict[str, Any]:
    stated = {"view": view, "epsilon": epsilon, "delta": 1e-5, "unit": "record", "adjacency": "add-remove"}
    return {**stated, "accountant": "opacus prv", "releases": 1, "why_invalid": None, **changes}


def test_epsilon_is_the_weakest_claim_of_its_view() -> None:
    found = [record(c, privacy=[claim(e)]) for c, e in zip(seeds("dp_sgd"), (1.0, 2.5, 2.0), strict=True)]
    (row,) = rows(found)
    assert (row["epsilon_weights"], row["epsilon_activations"]) == (2.5, "inf")


@pytest.mark.parametrize("infinite", ["inf", float("inf")])
def test_an_infinite_claim_at_one_seed_is_infinite(infinite: Any) -> None:
    found = [record(c, privacy=[claim(e)]) for c, e in zip(seeds("dp_sgd"), (1.0, infinite, 2.0), strict=True)]
    (row,) = rows(found)
    assert row["epsilon_weights"] == "inf"
    assert list(leaderboard(found).claims["epsilon"]) == [infinite]


def test_an_invalid_claim_is_no_number() -> None:
    invalid = claim(None, why_invalid="the server's state is an un-noised function of the data")
    (row,) = rows([record(c, privacy=[claim(1.0), invalid]) for c in seeds("dp_sgd")])
    assert row["epsilon_weights"] == "invalid"


def test_ranks_go_by_the_upper_end_of_leakage_within_a_tier() -> None:
    found = (
        records(seeds(), ssim=0.65)
        + records(every_stance("weak", side="activations"), ssim=0.5, utility=0.97)
        + records(every_stance("strong", side="activations"), ssim=0.3, utility=0.92)
        + records(every_stance("broken", side="activations"), ssim=0.25, utility=0.5)
    )
    assert [(row["rank"], row["tier"], row["defense"]) for row in rows(found)] == [
        (1, 1, "weak"),
        (2, 1, "none"),
        (3, 2, "strong"),
        (4, 3, "broken"),
    ]


def test_a_tier_is_taken_by_the_upper_end_of_the_paired_drop() -> None:
    found = [record(c, utility=u) for c, u in zip(seeds("noise"), (0.97, 0.97, 0.93), strict=True)]
    (row,) = rows(found)
    assert row["utility_drop"] == pytest.approx(0.055 / 3)
    assert row["tier"] == 2


def test_a_drop_of_just_two_points_is_in_the_first_tier() -> None:
    (row,) = rows(records(seeds("noise"), utility=0.955))
    assert row["tier"] == 1


def test_rows_that_cannot_be_told_apart_share_a_rank_and_the_next_is_skipped() -> None:
    found = records(seeds(), ssim=0.65) + records(every_stance("b"), ssim=0.4)
    jittered = by_seed(every_stance("a"), "ssim", (0.37, 0.41, 0.42))
    assert [(row["rank"], row["defense"]) for row in rows(found + jittered)] == [(1, "b"), (1, "a"), (3, "none")]


def test_rows_whose_paired_difference_is_certain_are_ranked_apart_although_their_intervals_overlap() -> None:
    found = records(seeds(), ssim=0.65) + records(every_stance("noise"), ssim=0.63)
    first, second = rows(found)
    assert first["leakage_high"] > second["leakage_low"]
    assert [(row["rank"], row["defense"]) for row in (first, second)] == [(1, "noise"), (2, "none")]


def test_a_row_that_is_less_certain_stands_behind_one_of_the_same_mean() -> None:
    found = records(every_stance("a"), ssim=0.42)
    uncertain = by_seed(every_stance("b"), "ssim", (0.26, 0.46, 0.51))
    first, second = rows(found + uncertain)
    assert (first["defense"], second["defense"]) == ("a", "b")
    assert first["leakage"] > second["leakage"]


def test_a_row_shares_a_rank_only_where_it_cannot_be_told_from_any_row_of_that_rank() -> None:
    between = by_seed(every_stance("b"), "ssim", (0.395, 0.42, 0.445))
    found = records(every_stance("a"), ssim=0.40) + between + records(every_stance("c"), ssim=0.44)
    assert [(row["rank"], row["defense"]) for row in rows(found)] == [(1, "a"), (1, "b"), (3, "c")]


def test_rows_of_different_tiers_never_share_a_rank() -> None:
    found = records(every_stance("a"), ssim=0.4, utility=0.92) + records(every_stance("b"), ssim=0.4)
    assert [(row["rank"], row["tier"], row["defense"]) for row in rows(found)] == [(1, 1, "b"), (2, 2, "a")]


def test_a_reference_never_counts_against_a_defense_whatever_it_knows() -> None:
    (row,) = rows(records(seeds(), ssim=0.4) + records(seeds(attack="other", role="reference"), ssim=0.9))
    assert row["worst_attack"] == "unsplit:clone=joint"
    assert pd.isna(row["white_box"])


def test_ranks_start_anew_where_the_cut_asked_for_differs() -> None:
    found = rows(records(seeds()) + records(seeds(cut="pool2"), ssim=0.4))
    assert [(row["cut"], row["rank"]) for row in found] == [("pool1", 1), ("pool2", 1)]


def test_a_defense_that_moves_the_cut_competes_at_the_cut_asked_for() -> None:
    deeper = every_stance("deeper_split", "to=pool2", cut_reached="pool2", side="architecture")
    found = rows(records(seeds()) + records(deeper, ssim=0.4))
    assert [(row["rank"], row["cut"]) for row in found] == [(1, "pool1->pool2"), (2, "pool1")]


def test_the_order_of_the_records_does_not_matter() -> None:
    found = records(seeds() + seeds(**DECODER) + seeds(**KNOWN)) + records(seeds("noise"), ssim=0.4)
    shuffled = random.Random(3).sample(found, len(found))
    first, second = leaderboard(found), leaderboard(shuffled)
    for name in ("rows", "attacks", "notes"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))


def test_another_defense_beside_a_row_does_not_move_its_numbers() -> None:
    alone = rows(records(seeds()))[0]
    beside = rows(records(seeds()) + records(every_stance("noise", n=5), ssim=0.3))[-1]
    numbers = ("leakage", "leakage_low", "leakage_high", "leakage_p95", "utility")
    assert beside["defense"] == "none"
    assert {name: alone[name] for name in numbers} == {name: beside[name] for name in numbers}


def test_results_of_different_digests_never_meet_in_one_table() -> None:
    mixed = [*records(seeds(n=2)), replace(record(cell(seed=2)), suite_digest="6" * 64)]
    with pytest.raises(UserError, match="never meet in one table"):
        leaderboard(mixed)


def test_records_of_another_digest_than_the_plan_are_refused() -> None:
    with pytest.raises(UserError, match="digest 666666666666"):
        leaderboard(records(seeds()), plan(seeds(), digest="6" * 64))


def test_a_record_of_an_older_version_of_a_planned_plug_in_is_left_out() -> None:
    cells = seeds()
    older = [replace(one, key=f"{number:064d}") for number, one in enumerate(records(cells, ssim=0.9))]
    (row,) = rows([*older, *records(cells, ssim=0.5)], cells)
    assert row["ssim_aligned"] == pytest.approx(0.5)


def test_two_versions_of_an_unplanned_plug_in_are_not_averaged() -> None:
    older = replace(record(cell("mine")), key="0" * 64)
    with pytest.raises(UserError, match="two cells stand in the same place"):
        leaderboard([older, record(cell("mine"))])


def test_a_record_that_was_not_planned_adds_its_row() -> None:
    found = rows(records(seeds()) + records(every_stance("mine"), ssim=0.4), seeds())
    assert [row["defense"] for row in found] == ["mine", "none"]


def test_the_text_of_a_place_tells_every_two_cells_apart() -> None:
    tricky = [cell("a", "x=1 | attack=b"), cell("a", "x=1"), cell("a", '"x=1"'), cell("a", "x=1\n"), *seeds()]
    assert len({axes_text(one.axes()) for one in tricky}) == len(tricky)


def test_every_attack_reference_and_control_stands_in_the_second_table() -> None:
    board = leaderboard(records(seeds(goals=("reconstruct", "steal")) + seeds(**KNOWN)))
    told = set(zip(board.attacks["attack"], board.attacks["role"], strict=True))
    assert told == {
        ("unsplit", "attack"),
        ("known_client", "reference"),
        ("constant", "control"),
        ("train_mean", "control"),
        ("auxiliary", "control"),
        ("random_clone", "control"),
    }


def test_controls_identify_too_and_stand_beside_the_same_chance() -> None:
    attacks = leaderboard(records(seeds())).attacks
    controls = attacks[attacks["role"] == "control"]
    assert (controls["identification"] < attacks.iloc[0]["identification"]).all()
    assert set(attacks["identification_chance"]) == {0.01}
    assert set(attacks["recognition_of_truth"]) == {0.9}


def test_a_mean_in_the_second_table_is_a_gap_where_a_seed_is_missing() -> None:
    board = leaderboard(records(seeds())[:2], plan(seeds()))
    assert board.attacks["ssim_aligned"].isna().all()
    assert set(board.attacks["n_done"]) == {2}


def test_the_second_table_tells_the_share_that_converged() -> None:
    found = [record(c, convergence={"converged": c.victim.seed == 0}) for c in seeds()]
    board = leaderboard(found)
    assert board.attacks["converged"].iloc[0] == pytest.approx(1 / 3)


def test_everything_per_image_has_one_row_a_cell_and_target() -> None:
    cells = seeds(n=2)
    frame = images_frame(records(cells, n=20), plan(cells))
    assert len(frame) == 40
    assert frame["ssim_aligned"].mean() == pytest.approx(UNDEFENDED)
    assert frame["control.train_mean.ssim_aligned"].mean() == pytest.approx(CONTROLS["train_mean"])
    assert list(frame["target_id"][:20]) == list(range(20))


def test_a_cell_that_failed_has_a_row_without_an_image() -> None:
    cells = seeds(n=3)
    frame = images_frame([record(cells[0], n=4), record(cells[1], status="failed")], plan(cells))
    assert list(frame["status"].value_counts().sort_index().items()) == [("done", 4), ("failed", 1), ("missing", 1)]
    assert frame[frame["status"] != "done"]["image"].isna().all()


def test_the_change_is_what_a_row_leaks_more_or_less_than_without_a_defense() -> None:
    change = (0.40 - 0.65) / (1 - BEST_CONTROL)
    noise, none = rows(records(seeds(), ssim=0.65) + records(every_stance("noise"), ssim=0.40))
    assert noise["leakage_change"] == pytest.approx(change)
    assert pd.isna(none["leakage_change"])


def test_the_change_is_paired_so_that_what_victims_and_images_share_cancels() -> None:
    noise, none = rows(records(seeds(), ssim=0.65) + records(every_stance("noise"), ssim=0.60))
    assert none["leakage_high"] - none["leakage_low"] > 0.05
    assert noise["leakage_change_high"] - noise["leakage_change_low"] < 0.01
    assert noise["leakage_change_high"] < 0


def test_the_change_is_taken_over_the_seeds_that_both_rows_have() -> None:
    without = by_seed(seeds(n=3), "ssim", (0.5, 0.6, 0.9))
    noise, _ = rows(without + by_seed(every_stance("noise", n=2), "ssim", (0.4, 0.5)))
    assert noise["leakage_change"] == pytest.approx(-0.1 / (1 - BEST_CONTROL))


def test_a_change_from_all_labels_to_none_keeps_a_width() -> None:
    found = records(seeds(**LABELS), labels=1.0) + records(every_stance("flip", **LABELS), labels=0.0)
    row = next(row for row in rows(found) if row["defense"] == "flip")
    assert row["leakage_change"] == -1
    # Wilson: of 20, all may be .839 and none .161; beside chance .1 that is .179 and .068 short of the ends.
    assert row["leakage_change_high"] == pytest.approx(-1 + (0.1790**2 + 0.0679**2) ** 0.5, abs=1e-3)


def test_there_is_no_change_to_tell_without_a_row_that_is_not_defended() -> None:
    (row,) = rows(records(every_stance("noise")))
    assert pd.isna(row["leakage_change"])


def test_the_front_is_marked_table_by_table() -> None:
    shallow = records(seeds(), ssim=0.65) + records(every_stance("noise"), ssim=0.3, utility=0.9)
    worse = records(every_stance("worse"), ssim=0.4, utility=0.8)
    deep = records(every_stance("noise", cut="pool2"), ssim=0.5, utility=0.7)
    marked = {(row["cut"], row["defense"]): row["pareto"] for row in rows(shallow + worse + deep)}
    assert marked == {
        ("pool1", "none"): True,
        ("pool1", "noise"): True,
        ("pool1", "worse"): False,
        ("pool2", "noise"): True,
    }


def test_the_front_leaves_out_what_another_row_beats_on_both_counts() -> None:
    frame = pd.DataFrame(
        {"rank": [1, 2, 3, None], "utility_drop": [0.0, 0.05, 0.06, 0.0], "leakage": [0.5, 0.2, 0.3, 0.0]}
    )
    assert on_front(frame) == [True, True, False, False]


def test_nothing_planned_and_nothing_run_is_an_empty_board() -> None:
    board = leaderboard([])
    assert list(board.rows.columns) == list(COLUMNS)
    assert board.rows.empty
