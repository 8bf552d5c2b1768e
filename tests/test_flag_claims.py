from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmark.flag_rules.claims import most_identified
from benchmark.record import Record
from tests.flagged import flags, ranked
from tests.record_factory import evidence, records
from tests.test_leaderboard import KNOWN, claim, every_stance, seeds

CLAIM: dict[str, Any] = {"view": "activations", "unit": "one record's own activations", "adjacency": "replace-one"}


def stated(epsilon: float = 1.0, **changes: Any) -> dict[str, Any]:
    return claim(epsilon, **{**CLAIM, "releases": 10, **changes})


def identified(share: float, of: dict[str, Any], n: int = 20, **where: Any) -> list[Record]:
    """Records of a row whose attacks name a share of n images among 100."""
    found = records(every_stance("noise", **where), ssim=0.3, n=n, privacy=[of])
    for one in found:
        right = round(share * n)
        one.per_image["identified"] = [1.0] * right + [0.0] * (n - right)
        one.scalars["identification_candidates"] = 100.0
    return found


def test_images_named_more_often_than_epsilon_allows_refute_it() -> None:
    found = identified(0.5, stated())
    severity, sentence = flags(found, "noise")["claim_refuted"]
    assert severity == "fatal"
    assert sentence == (
        "epsilon_activations 1.0 allows 0.027 of the images to be named among 100 from 1 view; unsplit:clone=joint "
        "names 10 of 20, at least 0.207"
    )
    assert not ranked(found, "noise")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1])
def test_images_named_about_as_often_as_epsilon_allows_refute_nothing(share: float) -> None:
    assert "claim_refuted" not in flags(identified(share, stated()), "noise")


def test_a_large_epsilon_allows_everything() -> None:
    assert "claim_refuted" not in flags(identified(1.0, stated(20.0)), "noise")


def test_a_claim_for_weights_or_labels_is_not_about_what_is_sent() -> None:
    assert "claim_refuted" not in flags(identified(1.0, stated(view="weights")), "noise")


def test_what_needs_labels_of_the_targets_or_the_trained_head_refutes_nothing() -> None:
    assert "claim_refuted" not in flags(identified(1.0, stated(), phase="training"), "noise")


def test_the_white_box_can_refute_a_claim_too() -> None:
    weak = identified(0.0, stated())
    white = records(seeds("noise", **KNOWN), ssim=0.9, privacy=[stated()])
    for one in white:
        one.per_image["identified"] = [1.0] * 20
        one.scalars["identification_candidates"] = 100.0
    assert "known_client names 20 of 20" in flags(weak + white, "noise")["claim_refuted"][1]


def test_a_claim_about_something_that_is_not_random_is_refuted_without_any_attack() -> None:
    still = evidence("noise", inference={"random": False})
    found = records(every_stance("noise"), ssim=0.3, privacy=[stated()], evidence=still)
    assert flags(found, "noise")["claim_refuted"] == (
        "fatal",
        "epsilon_activations 1.0 is claimed, but what is sent in inference is not random: it tells two images apart "
        "with certainty",
    )


def test_an_infinite_or_invalid_claim_cannot_be_refuted() -> None:
    still = evidence("noise", inference={"random": False})
    for one in (stated(math.inf), stated() | {"epsilon": None, "why_invalid": "no clipping"}):
        assert "claim_refuted" not in flags(records(every_stance("noise"), privacy=[one], evidence=still), "noise")


def test_randomised_response_attains_the_bound() -> None:
    # It tells the truth with probability e^eps / (e^eps + N - 1), and is (eps, 0)-private.
    for epsilon, n in ((0.0, 10), (1.0, 2), (2.5, 100)):
        truth = math.exp(epsilon) / (math.exp(epsilon) + n - 1)
        assert most_identified(stated(epsilon, delta=0.0), n, 1) == pytest.approx(truth)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 0.0), (1.0, 0.05), (2.0, 0.2)])
@pytest.mark.parametrize("n", [2, 5])
def test_no_private_mechanism_is_named_through_more_often_than_the_bound(epsilon: float, delta: float, n: int) -> None:
    # With delta the truth is told in the clear, else randomised response: (eps, delta)-private by construction.
    told = math.exp(epsilon) / (math.exp(epsilon) + n - 1)
    law = np.full((n, 2 * n), 0.0)
    for true in range(n):
        law[true, :n] = (1 - delta) * (1 - told) / (n - 1)
        law[true, true] = (1 - delta) * told
        law[true, n + true] = delta
    excess = np.maximum(law[:, None, :] - math.exp(epsilon) * law[None, :, :], 0).sum(axis=2)
    assert excess.max() <= delta + 1e-12
    best = law.max(axis=0).sum() / n
    assert best <= most_identified(stated(epsilon, delta=delta), n, 1) + 1e-12


def test_more_views_than_a_claim_counts_are_several_releases() -> None:
    assert most_identified(stated(0.5, delta=1e-3, releases=4), 50, 10) == pytest.approx(
        most_identified(stated(1.5, delta=3e-3), 50, 10)
    )


def test_adding_or_removing_a_record_is_half_of_replacing_it() -> None:
    removed = most_identified(stated(0.5, delta=1e-3, adjacency="add-remove"), 50, 1)
    assert removed == pytest.approx(most_identified(stated(1.0, delta=1e-3 * (1 + math.exp(0.5))), 50, 1))


def test_a_huge_epsilon_does_not_overflow() -> None:
    assert most_identified(stated(5000.0, adjacency="add-remove"), 50, 1) == 1.0


def test_a_delta_that_is_not_below_one_over_the_records_is_no_guarantee() -> None:
    found = records(every_stance("noise"), ssim=0.3, privacy=[stated(delta=1e-3)])
    assert flags(found, "noise")["epsilon_without_ground"] == (
        "fatal",
        "epsilon_activations 1.0 lacks a delta below 1/3000, one over the number of training records (it states 0.001)",
    )


def test_a_claim_that_does_not_count_its_releases_has_no_ground() -> None:
    found = records(every_stance("noise"), ssim=0.3, privacy=[stated(releases=None)])
    assert "a number of releases" in flags(found, "noise")["epsilon_without_ground"][1]
