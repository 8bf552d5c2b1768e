from __future__ import annotations

from typing import Any

import pytest

from benchmark.flag_rules.strength import parameters
from benchmark.record import Record
from tests.flagged import flags, ranked
from tests.record_factory import evidence, records
from tests.test_leaderboard import by_seed, claim, every_stance, seeds


def test_the_same_method_doing_worse_with_more_knowledge_is_pointed_out() -> None:
    found = records(seeds(), ssim=0.6) + records(seeds(stance="aware"), ssim=0.3)
    assert flags(found)["weaker_beats_stronger"] == (
        "caution",
        "unsplit:clone=joint (architecture, oblivious) reaches 0.474, unsplit:clone=joint (architecture, aware) 0.079",
    )


def test_another_method_with_more_knowledge_may_do_worse() -> None:
    found = records(seeds(), ssim=0.6) + records(seeds(attack="other", stance="aware"), ssim=0.3)
    assert "weaker_beats_stronger" not in flags(found)


def test_methods_are_compared_at_their_best() -> None:
    poor = records(seeds(attack_params="rounds=1", stance="aware"), ssim=0.3)
    good = records(seeds(attack_params="rounds=9", stance="aware"), ssim=0.62)
    assert "weaker_beats_stronger" not in flags(records(seeds(), ssim=0.6) + poor + good)


def sigma(value: float, ssim: float, **facts: Any) -> list[Record]:
    """A row of noise of one strength, by what its client was found to do."""
    return records(every_stance("noise", f"sigma={value}"), ssim=ssim, **facts)


def reached(value: float) -> dict[str, Any]:
    return {"reached": {"noise.noise_to_rms": value}}


def test_more_leakage_behind_more_noise_is_pointed_out_in_both_rows() -> None:
    found = sigma(0.5, 0.35, **reached(0.5)) + sigma(2, 0.60, **reached(2.0))
    told = {params: flags(found, "noise", params)["not_monotone"] for params in ("sigma=0.5", "sigma=2")}
    assert told["sigma=0.5"] == told["sigma=2"]
    severity, sentence = told["sigma=2"]
    assert severity == "caution"
    assert sentence.startswith("unsplit finds 0.3")
    assert sentence.endswith("more behind the stronger noise sigma=2 than behind noise sigma=0.5")


def test_less_leakage_behind_more_noise_is_as_it_should_be() -> None:
    found = sigma(0.5, 0.60, **reached(0.5)) + sigma(2, 0.35, **reached(2.0))
    assert "not_monotone" not in flags(found, "noise")


def test_a_difference_that_may_be_chance_is_not_pointed_out() -> None:
    weak = by_seed(every_stance("noise", "sigma=0.5"), "ssim", (0.2, 0.4, 0.6))
    strong = by_seed(every_stance("noise", "sigma=2"), "ssim", (0.6, 0.5, 0.3))
    for one, rms in [*((w, 0.5) for w in weak), *((s, 2.0) for s in strong)]:
        one.reached["noise.noise_to_rms"] = rms
    assert "not_monotone" not in flags(weak + strong, "noise")


def test_a_smaller_epsilon_is_the_stronger_defense() -> None:
    def private(epsilon: float) -> dict[str, Any]:
        return {"privacy": [claim(epsilon, view="activations")]}

    broken = sigma(0.5, 0.35, **private(9.0)) + sigma(2, 0.60, **private(1.0))
    kept = sigma(0.5, 0.60, **private(9.0)) + sigma(2, 0.35, **private(1.0))
    assert "not_monotone" in flags(broken, "noise")
    assert "not_monotone" not in flags(kept, "noise")


def test_without_noise_or_epsilon_what_changes_more_of_what_is_sent_is_stronger() -> None:
    def bits(number: int, ssim: float, distortion: float) -> list[Record]:
        both = {phase: {"distortion": distortion, "random": False} for phase in ("inference", "training")}
        cells = every_stance("quantisation", f"bits={number}")
        return records(cells, ssim=ssim, evidence=evidence("quantisation", **both))

    assert "not_monotone" in flags(bits(8, 0.35, 0.01) + bits(1, 0.60, 0.5), "quantisation")
    assert "not_monotone" not in flags(bits(8, 0.60, 0.01) + bits(1, 0.35, 0.5), "quantisation")


def test_where_nothing_tells_which_is_stronger_nothing_is_said() -> None:
    assert "not_monotone" not in flags(sigma(0.5, 0.35) + sigma(2, 0.60), "noise")


def test_rows_that_differ_in_more_than_one_number_are_not_compared() -> None:
    weak = records(every_stance("noise", "clip=1,sigma=0.5"), ssim=0.35, **reached(0.5))
    strong = records(every_stance("noise", "clip=2,sigma=2"), ssim=0.60, **reached(2.0))
    assert "not_monotone" not in flags(weak + strong, "noise")


def test_strengths_are_compared_by_the_attacks_that_both_met() -> None:
    weak, strong = sigma(0.5, 0.35, **reached(0.5)), sigma(2, 0.30, **reached(2.0))
    more = records(seeds("noise", "sigma=2", attack="other"), ssim=0.60, **reached(2.0))
    assert "not_monotone" not in flags(weak + strong + more, "noise")


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"views": 1}, {"views": 10}),
        ({"attack_params": "restarts=1"}, {"attack_params": "restarts=16"}),
        ({"attack_params": "clone=joint,rounds=1"}, {"attack_params": "clone=joint,rounds=20"}),
    ],
)
def test_finding_less_with_more_views_or_a_larger_budget_is_pointed_out(
    less: dict[str, Any], more: dict[str, Any]
) -> None:
    found = records(seeds(**less), ssim=0.6) + records(seeds(**more), ssim=0.4)
    severity, sentence = flags(found)["not_monotone"]
    assert severity == "caution"
    assert " less than unsplit" in sentence
    assert ranked(found)
    other_way = records(seeds(**less), ssim=0.4) + records(seeds(**more), ssim=0.6)
    assert "not_monotone" not in flags(other_way)


def test_a_learning_rate_is_no_budget() -> None:
    found = records(seeds(attack_params="lr=0.1"), ssim=0.6) + records(seeds(attack_params="lr=0.5"), ssim=0.4)
    assert "not_monotone" not in flags(found)


def test_parameters_are_read_from_their_canonical_text() -> None:
    assert parameters("") == {}
    assert parameters("phases=a,b,sigma=0.5") == {"phases": "a,b", "sigma": "0.5"}
