from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.attack_score import converged
from benchmark.flags import FLAGS, meaning
from tests.flagged import flags, ranked
from tests.record_factory import cell, record, records
from tests.test_leaderboard import LABELS, claim, every_stance, seeds


def test_a_complete_converged_row_of_three_seeds_has_no_flag() -> None:
    assert flags(records(seeds())) == {}


def test_every_flag_says_what_it_means() -> None:
    assert all(flag.meaning.endswith(".") and "\n" not in flag.meaning for flag in FLAGS)
    assert len({flag.code for flag in FLAGS}) == len(FLAGS)


def test_an_incomplete_row_names_the_first_cell_and_why() -> None:
    found = [*records(seeds(n=2)), record(cell(seed=2), status="failed")]
    severity, sentence = flags(found)["incomplete"]
    assert severity == "fatal"
    assert sentence == (
        "1 of 3 planned cells are not done; attack unsplit at seed 2 failed: RuntimeError: out of lanes"
    )


def test_a_row_without_a_converged_attack_is_not_established_and_unranked() -> None:
    found = records(seeds(), convergence={"converged": False, "steps": 9})
    assert flags(found)["not_established"][0] == "fatal"
    assert flags(found)["not_converged"][0] == "caution"
    assert not ranked(found)


def test_a_row_is_established_where_the_attack_that_leaks_most_converged() -> None:
    found = records(seeds(attack="other"), ssim=0.4, convergence={"converged": False}) + records(seeds())
    assert "not_established" not in flags(found)
    assert flags(found)["not_converged"] == ("caution", "not converged at every seed: other:clone=joint")
    assert ranked(found)


def test_a_weaker_attack_that_converged_does_not_establish_what_a_stronger_one_did_not() -> None:
    unsettled = [record(c, convergence={"converged": c.victim.seed == 0}) for c in seeds()]
    found = unsettled + records(seeds(attack="other"), ssim=0.2)
    assert flags(found)["not_established"] == (
        "fatal",
        "unsplit:clone=joint, which leaks most, converged in 33% of its cells",
    )
    assert not ranked(found)


def test_of_attacks_that_leak_the_same_one_that_converged_establishes_the_row() -> None:
    found = records(seeds(), convergence={"converged": False}) + records(seeds(attack="other"))
    assert "not_established" not in flags(found)


@pytest.mark.parametrize(
    ("convergence", "expected"),
    [
        ({"trace": {"loss": [1.0, 0.5, *[0.3] * 18]}, "steps": 20}, True),
        ({"trace": {"loss": [1.0 - 0.04 * i for i in range(20)]}, "steps": 20}, False),
        ({"trace": {"loss": [0.5] * 19 + [0.9]}, "steps": 20}, False),
        ({"trace": {"loss": [0.5] * 19 + [float("nan")]}, "steps": 20}, False),
        ({"trace": {}, "steps": 20}, False),
        ({"trace": {}, "steps": 0}, True),
        ({"trace": {"loss": [1.0, 0.1]}, "steps": 20, "converged": True}, True),
    ],
    ids=["flat", "falling", "rising", "nan", "no trace", "no steps", "the run's own verdict"],
)
def test_converged_means_that_the_loss_has_settled(convergence: dict[str, Any], expected: bool) -> None:
    assert converged(record(cell(), convergence=convergence)) is expected


def test_a_network_no_better_than_its_commonest_class_is_unranked() -> None:
    found = records(seeds()) + records(seeds("noise"), utility=0.114, ssim=0.2)
    assert flags(found, "noise")["utility_at_majority"][0] == "fatal"
    assert not ranked(found, "noise")


@pytest.mark.parametrize(
    ("changes", "lack"),
    [
        ({"accountant": ""}, "accountant"),
        ({"delta": None}, "a delta in [0, 1)"),
        ({"why_invalid": "the server is not covered"}, "the server is not covered"),
        ({"epsilon": float("nan")}, "an epsilon of at least 0"),
        ({"epsilon": -1.0}, "an epsilon of at least 0"),
        ({"epsilon": "small"}, "an epsilon of at least 0"),
    ],
)
def test_an_epsilon_without_ground_is_fatal(changes: dict[str, Any], lack: str) -> None:
    found = records(seeds("dp_sgd"), privacy=[{**claim(1.0), **changes}])
    severity, sentence = flags(found, "dp_sgd")["epsilon_without_ground"]
    assert severity == "fatal"
    assert lack in sentence


@pytest.mark.parametrize("infinite", ["inf", float("inf")])
def test_an_infinite_epsilon_promises_nothing_and_raises_no_flag(infinite: Any) -> None:
    found = records(every_stance("gaussian_noise"), privacy=[claim(infinite, accountant="", delta=None)])
    assert flags(found, "gaussian_noise") == {}


def test_an_epsilon_that_says_itself_that_it_is_invalid_is_only_labelled() -> None:
    found = records(every_stance("dp_sgd"), privacy=[claim(None, why_invalid="the server is not covered")])
    assert flags(found, "dp_sgd") == {"epsilon_invalid": ("label", "weights: the server is not covered")}
    assert ranked(found, "dp_sgd")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_image_that_is_no_number_is_fatal(value: float) -> None:
    found = records(seeds())
    found[1].per_image["ssim_aligned"][3] = value
    assert flags(found)["constant_or_nan"] == ("fatal", "attack unsplit at seed 1 has no finite score")
    assert not ranked(found)


def test_reconstructions_that_score_as_a_constant_do_are_fatal() -> None:
    found = records(seeds())
    for one in found:
        one.per_image.update(one.controls["constant"])
    assert "constant" in flags(found)["constant_or_nan"][1]


def test_a_record_without_controls_is_fatal() -> None:
    assert flags(records(seeds(), controls={}))["no_control"][0] == "fatal"


def test_a_perfect_control_leaves_nothing_to_measure() -> None:
    found = records(seeds(**LABELS), controls={"known_labels_no_gradient": {"accuracy": [1.0]}})
    assert flags(found)["no_room"][0] == "fatal"
    assert not ranked(found)


def test_fewer_than_three_seeds_are_only_indicative() -> None:
    found = records(seeds(n=2))
    assert flags(found) == {"indicative": ("caution", "2 victim seeds")}
    assert ranked(found)


def test_a_defense_that_changes_no_bit_is_labelled() -> None:
    found = records(seeds()) + records(seeds("placebo"))
    assert flags(found, "placebo")["inactive"] == ("label", "identical in all 3 cells that `none` has too")


def test_a_defense_that_changes_one_value_is_active() -> None:
    found = records(seeds()) + records(seeds("noise"))
    found[-1].per_image["mse_raw"][0] += 1e-7
    assert "inactive" not in flags(found, "noise")


def test_an_attack_below_its_control_is_pointed_out() -> None:
    found = records(seeds(), ssim=0.6) + records(every_stance("noise"), ssim=0.1)
    assert flags(found, "noise")["leakage_below_control"] == (
        "caution",
        "unsplit:clone=joint scores 0.100, the control train_mean 0.240 without the smashed data",
    )
    assert ranked(found, "noise")


def test_faint_images_that_tell_whose_they_are_are_pointed_out() -> None:
    found = records(seeds(), ssim=0.9) + records(every_stance("noise"), ssim=0.4)
    severity, sentence = flags(found, "noise")["identified_anyway"]
    assert severity == "caution"
    assert sentence == "leakage 0.211, but an attack identifies 88% of the images among 100"
    assert "identified_anyway" not in flags(found)


def test_nothing_is_ranked_by_attacks_that_fail_where_nothing_is_defended() -> None:
    found = records(seeds(), ssim=0.1) + records(seeds("noise"), ssim=0.05)
    assert flags(found, "noise")["fails_undefended"][0] == "fatal"
    assert not ranked(found, "noise")
    assert not ranked(found)


def test_labels_that_the_control_without_gradient_infers_better_are_pointed_out() -> None:
    found = records(seeds(**LABELS), labels=0.5, controls={"known_labels_no_gradient": {"accuracy": [0.8]}})
    assert flags(found)["leakage_below_control"] == (
        "caution",
        "label_matching:observes=cut_gradient scores 0.500, the control known_labels_no_gradient 0.800 "
        "without the gradient",
    )


def test_a_defense_that_met_fewer_attacks_than_the_others_is_pointed_out() -> None:
    found = records(seeds() + seeds(attack="other") + seeds("noise"))
    assert flags(found, "noise")["fewer_attacks"] == ("caution", "not attacked by other:clone=joint")
    assert "fewer_attacks" not in flags(found, "none")


def test_an_interval_wider_than_the_gap_to_the_next_row_is_pointed_out() -> None:
    close = records(seeds(), ssim=0.65) + records(every_stance("noise"), ssim=0.64)
    far = records(seeds(), ssim=0.65) + records(every_stance("noise"), ssim=0.3)
    assert "interval_wider_than_gap" in flags(close, "noise")
    assert "interval_wider_than_gap" not in flags(far, "noise")


def test_the_gap_is_to_the_next_row_that_is_ranked() -> None:
    unranked = records(every_stance("odd"), ssim=0.64, flags=["reused_noise"])
    assert "interval_wider_than_gap" not in flags(records(seeds(), ssim=0.65) + unranked)


def test_what_only_a_run_can_see_is_weighed_here() -> None:
    assert flags(records(seeds(), flags=["reused_noise"]))["reused_noise"][0] == "fatal"
    assert flags(records(seeds(), flags=["odd"]))["odd"][0] == "caution"
    assert meaning("odd") == "Raised while a cell of the row ran."


def test_an_attack_that_fails_its_planted_client_is_fatal_only_where_no_other_passes() -> None:
    failing = records(seeds(), flags=["planted_client_failed"])
    assert not ranked(failing)
    assert ranked(failing + records(seeds(attack="other")))


def test_the_documentation_lists_every_flag_with_its_fault_weight_and_meaning() -> None:
    page = (Path(__file__).parent.parent / "docs" / "scoring.md").read_text()
    listed = [line for line in page.splitlines() if re.fullmatch(r"\| `\w+` \| (F\d+|—) \| \w+ \| .* \|", line)]
    assert listed == [f"| `{f.code}` | {f.fault or '—'} | {f.severity} | {f.meaning} |" for f in FLAGS]


def test_every_fault_of_published_evaluations_has_a_flag() -> None:
    assert {flag.fault for flag in FLAGS} - {""} == {f"F{number}" for number in range(1, 14)}
