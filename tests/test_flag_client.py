from __future__ import annotations

from typing import Any

import pytest

from tests.flagged import flags, ranked
from tests.record_factory import evidence, record, records
from tests.test_leaderboard import LABELS, every_stance, seeds


def noisy(at: list[Any] | None = None, **facts: Any) -> list[Any]:
    """Records of a defended row beside `none`, with what was found out about its client."""
    cells = every_stance("noise") if at is None else at
    return records(seeds()) + records(cells, ssim=0.4, evidence=evidence("noise", **facts))


@pytest.mark.parametrize("phase", ["inference", "training"])
def test_noise_that_repeats_is_fatal_in_either_phase(phase: str) -> None:
    found = noisy(**{phase: {"random": False, "frozen": True}})
    assert flags(found, "noise")["reused_noise"] == (
        "fatal",
        f"two queries of the same images are answered alike in {phase} at seed 0, although another stream or another "
        "place in the batch gets other noise",
    )
    assert not ranked(found, "noise")


def test_gradients_with_noise_that_repeats_are_fatal_for_labels_alone() -> None:
    facts = evidence("noise", gradients={"finite": True, "random": False, "frozen": True})
    found = records(every_stance("noise", **LABELS), evidence=facts)
    assert "in gradients at seed 0" in flags(found, "noise")["reused_noise"][1]
    assert "reused_noise" not in flags(records(every_stance("noise"), evidence=facts), "noise")


@pytest.mark.parametrize("phase", ["inference", "training"])
def test_an_output_that_is_the_same_for_all_images_is_fatal(phase: str) -> None:
    found = noisy(**{phase: {"constant": True}})
    assert flags(found, "noise")["constant_or_nan"] == (
        "fatal",
        f"what is sent in {phase} at seed 0 is the same for all images",
    )


def test_an_output_that_is_no_number_is_fatal_and_says_which_hook() -> None:
    found = noisy(training={"finite": False, "problem": "defense noise: protect_activations returned NaN"})
    assert flags(found, "noise")["constant_or_nan"] == (
        "fatal",
        "what is sent in training at seed 0 is not finite: defense noise: protect_activations returned NaN",
    )


def test_random_output_that_nobody_averages_over_is_pointed_out() -> None:
    oblivious = records(seeds("noise"), evidence=evidence("noise"))
    assert flags(oblivious, "noise")["randomised_output"] == (
        "caution",
        "what is sent in inference differs from query to query, and no attack there had more than one view or an "
        "adaptive stance",
    )


@pytest.mark.parametrize("answer", [{"views": 10}, {"stance": "adaptive"}])
def test_random_output_is_answered_by_many_views_or_an_adaptive_attack(answer: dict[str, Any]) -> None:
    assert "randomised_output" not in flags(records(seeds("noise") + seeds("noise", **answer)), "noise")


def test_random_output_of_one_phase_is_not_answered_in_the_other() -> None:
    found = records(seeds("noise", phase="training") + seeds("noise", stance="adaptive"))
    assert "sent in training differs" in flags(found, "noise")["randomised_output"][1]


def test_output_that_is_not_random_needs_no_averaging() -> None:
    still = {"inference": {"random": False}, "training": {"random": False}}
    found = records(seeds("rounding"), evidence=evidence("rounding", **still))
    assert "randomised_output" not in flags(found, "rounding")


@pytest.mark.parametrize(
    ("gradient", "said"), [("zero", "zero everywhere"), ("none", "cut off"), ("not finite", "not finite")]
)
def test_a_gradient_that_stops_is_pointed_out(gradient: str, said: str) -> None:
    found = noisy(inference={"gradient": gradient})
    assert flags(found, "noise")["gradient_masked"] == (
        "caution",
        f"in inference the gradient through its hooks is {said}",
    )
    assert ranked(found, "noise")


def test_targets_among_the_auxiliary_images_are_pointed_out() -> None:
    found = noisy(targets_in_auxiliary=2)
    assert flags(found, "noise")["auxiliary_overlap"] == (
        "caution",
        "2 of 20 targets (first_of_class, inference) are among the auxiliary images, pixel for pixel",
    )


def test_a_defense_of_one_phase_is_labelled_inactive_in_the_other() -> None:
    found = noisy(inference={"inactive": True})
    assert flags(found, "noise")["inactive"] == (
        "label",
        "its hooks of inference leave the head's output as it is, bit by bit",
    )
    assert ranked(found, "noise")


def test_a_defense_that_only_trains_otherwise_is_not_called_inactive() -> None:
    bare = {phase: {"inactive": True} for phase in ("inference", "training")}
    assert "inactive" not in flags(noisy(hooks=["privatise"], **bare), "noise")


def test_a_defense_that_hooks_what_is_sent_and_changes_nothing_is_inactive() -> None:
    bare = {phase: {"inactive": True} for phase in ("inference", "training")}
    assert flags(noisy(**bare), "noise")["inactive"][1].startswith("its hooks of inference and training leave")


def apart(auc: float, p: float) -> dict[str, float]:
    return {"judged": 0.8, "others": 0.0, "auc": auc, "p": p}


@pytest.mark.parametrize(("name", "where"), [("test_apart", "test images"), ("targets_apart", "targets in inference")])
def test_a_defense_that_treats_what_it_is_judged_on_apart_is_fatal(name: str, where: str) -> None:
    found = noisy(**{name: apart(1.0, 1e-20)})
    assert flags(found, "noise")["memorises_test"] == (
        "fatal",
        f"it changes what is sent of the {where} by 0.800 of its size, of auxiliary images by 0.000 "
        "(Mann-Whitney AUC 1.00, p 1e-20)",
    )
    assert not ranked(found, "noise")


@pytest.mark.parametrize("facts", [apart(0.7, 1e-12), apart(1.0, 1e-3)])
def test_a_difference_that_is_small_or_not_sure_is_none(facts: dict[str, float]) -> None:
    assert "memorises_test" not in flags(noisy(test_apart=facts), "noise")


def accuracies(test: float, auxiliary: float) -> list[Any]:
    found = [record(one, ssim=0.4, utility=test) for one in every_stance("noise")]
    for one in found:
        one.utility["auxiliary_accuracy"] = auxiliary
    return found


def test_accuracy_far_above_that_on_auxiliary_images_is_fatal() -> None:
    assert flags(accuracies(0.99, 0.90), "noise")["memorises_test"] == (
        "fatal",
        "accuracy 0.990 on 1000 test images, 0.900 on 1000 auxiliary ones: at least 0.071 more",
    )


@pytest.mark.parametrize(("test", "auxiliary"), [(0.975, 0.955), (0.90, 0.99)])
def test_accuracy_a_little_above_or_below_that_on_auxiliary_images_is_ordinary(test: float, auxiliary: float) -> None:
    assert "memorises_test" not in flags(accuracies(test, auxiliary), "noise")
