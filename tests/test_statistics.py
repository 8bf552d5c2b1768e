from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmark.metrics.statistics import (
    Sample,
    difference_low,
    differs,
    exact_low,
    interval,
    mean_interval,
    resampled_scores,
    wilson,
    worst_scores,
)


def sample(score: list[float], seed: int = 0, attack_seed: int = 0, targets: str = "t", control: float = 0.2) -> Sample:
    n = len(score)
    return Sample(seed, attack_seed, targets, np.array(score), {"mean": np.full(n, control)}, np.ones(n))


def test_the_first_value_is_the_normalised_difference_of_means() -> None:
    scores = resampled_scores([sample([0.5, 0.7], seed=0), sample([0.6, 0.8], seed=1)], [0, 1])
    assert scores[0] == pytest.approx((0.65 - 0.2) / 0.8)


def test_the_best_control_is_subtracted() -> None:
    several = Sample(
        0, 0, "t", np.array([0.6, 0.6]), {"a": np.array([0.1, 0.1]), "b": np.array([0.2, 0.4])}, np.ones(2)
    )
    assert resampled_scores([several], [0])[0] == pytest.approx((0.6 - 0.3) / 0.7)


def test_attack_seeds_share_the_weight_of_their_victim_seed() -> None:
    nested = [sample([0.2], 0, 0), sample([0.4], 0, 1), sample([0.9], 1, 0)]
    assert resampled_scores(nested, [0, 1])[0] == pytest.approx((0.6 - 0.2) / 0.8)


def test_the_worst_attack_is_taken_anew_in_every_resample() -> None:
    # Each attack wins on half of the images: only a worst taken anew rises above both.
    first, second = [sample([0.9, 0.1])], [sample([0.1, 0.9])]
    _, draws = worst_scores([first, second])
    alone = resampled_scores(first, [0])
    assert draws[1:].mean() > alone[1:].mean() + 0.1
    assert np.array_equal(draws, np.maximum(alone, resampled_scores(second, [0])))


def test_one_attack_that_is_not_a_number_leaves_no_worst() -> None:
    _, draws = worst_scores([[sample([0.9, 0.8])], [sample([np.nan, 0.8])]])
    assert np.isnan(draws).all()


def test_an_attack_that_ran_on_one_seed_only_is_silent_where_that_seed_is_not_drawn() -> None:
    both = [sample([0.3, 0.3], seed=0), sample([0.3, 0.3], seed=1)]
    position, draws = worst_scores([both, [sample([0.9, 0.9], seed=1)]])
    assert position == 1
    assert {round(float(value), 6) for value in draws} == {0.125, 0.875}


def test_rows_with_the_same_seeds_and_targets_are_resampled_alike() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(0.5, 0.1, 30)
    first, second = ([sample(list(images + shift), seed) for seed in (0, 1, 2)] for shift in (0.0, 0.08))
    paired = resampled_scores(second, [0, 1, 2]) - resampled_scores(first, [0, 1, 2])
    assert paired == pytest.approx(np.full(2001, 0.1))
    assert differs(resampled_scores(second, [0, 1, 2]), resampled_scores(first, [0, 1, 2]))


def test_rows_with_different_seeds_are_resampled_apart() -> None:
    first, second = ([sample([0.3 + 0.1 * (seed % 3)], seed) for seed in chosen] for chosen in ((0, 1, 2), (3, 4, 5)))
    assert not np.array_equal(resampled_scores(first, [0, 1, 2]), resampled_scores(second, [3, 4, 5]))


def test_attack_seeds_are_resampled_inside_their_victim_seed() -> None:
    draws = resampled_scores([sample([0.2], 0, 0), sample([0.6], 0, 1)], [0])
    assert draws[0] == pytest.approx(0.25)
    assert {round(float(value), 6) for value in draws[1:]} == {0.0, 0.25, 0.5}


def test_a_difference_of_nothing_is_a_tie() -> None:
    draws = resampled_scores([sample([0.5, 0.7])], [0])
    assert not differs(draws, draws)


def test_the_interval_holds_the_estimate_even_where_the_worst_is_biased_upwards() -> None:
    assert interval(np.array([0.1, 0.5, 0.6, 0.7]))[0] == 0.1


def test_an_unknown_estimate_has_no_interval() -> None:
    assert np.isnan(interval(np.array([np.nan, 0.5, 0.6]))).all()


def test_a_control_as_good_as_the_ceiling_leaves_no_score() -> None:
    assert np.isnan(resampled_scores([sample([0.5, 0.7], control=1.0)], [0])).all()


def test_without_a_control_there_is_no_score() -> None:
    assert np.isnan(resampled_scores([Sample(0, 0, "t", np.ones(2), {}, np.ones(2))], [0])).all()


@given(st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_cells_does_not_matter(order: list[int]) -> None:
    cells = [sample([0.1 * seed + 0.05 * a, 0.5], seed, a) for seed in range(3) for a in range(2)]
    expected = resampled_scores(cells, [0, 1, 2], 200)
    assert resampled_scores([cells[i] for i in order], [0, 1, 2], 200) == pytest.approx(expected, abs=1e-12)


def test_the_mean_of_one_seed_has_an_interval_of_no_width() -> None:
    assert mean_interval({3: 0.4}) == (0.4, 0.4, 0.4)


def test_the_interval_of_two_seeds_reaches_from_one_to_the_other() -> None:
    assert mean_interval({0: 0.0, 1: 0.2}) == pytest.approx((0.1, 0.0, 0.2))


def test_wilson_keeps_a_width_where_nothing_succeeded() -> None:
    # 3.84/(n + 3.84) for no success in n trials (Wilson, 1927).
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (1, 7), (7, 7), (40, 100), (999, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_intervals_of_a_proportion_are_those_of_scipy(successes: int, trials: int, level: float) -> None:
    known = binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert wilson(successes, trials, level) == pytest.approx((known.low, known.high), abs=1e-12)
    exact = binomtest(successes, trials, alternative="greater").proportion_ci(level, method="exact")
    assert exact_low(successes, trials, level) == pytest.approx(exact.low, abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_a_proportion_needs_trials_and_no_more_successes(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, trials)


def test_an_exact_interval_is_never_surer_than_wilsons() -> None:
    # Ten of twenty, one-sided 95 %: the 5 % point of Beta(10, 11).
    assert exact_low(10, 20) == pytest.approx(0.3020, abs=1e-4)
    assert exact_low(1, 10, 0.975) < wilson(1, 10)[0]
    assert exact_low(0, 20) == 0


def test_the_difference_of_two_proportions_is_newcombes() -> None:
    # 56 of 70 against 48 of 80, his example: method 10 gives .0524 to .3339.
    assert difference_low((56, 70), (48, 80)) == pytest.approx(0.0524, abs=1e-4)
