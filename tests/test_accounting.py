import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from benchmark.accounting import dp_sgd_epsilon, gaussian_epsilon
from benchmark.errors import UserError

DELTA = 1e-5
RATE = 256 / 60_000
STEPS = int(10 / RATE)


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.1, 284.4), (0.5, 24.4), (1, 10.0), (2, 4.38), (4, 1.99)])
def test_one_release_of_a_unit_ball_costs_the_golden_epsilon(sigma, epsilon):
    assert gaussian_epsilon(sigma, 2.0, DELTA) == pytest.approx(epsilon, rel=3e-3)


@pytest.mark.parametrize(("sigma", "epsilon"), [(1, 46.2), (4, 7.51)])
def test_ten_releases_cost_the_golden_epsilon(sigma, epsilon):
    assert gaussian_epsilon(sigma, 2.0, DELTA, releases=10) == pytest.approx(epsilon, rel=1e-3)


@given(sigma=st.floats(0.05, 20), sensitivity=st.floats(0.1, 10), delta=st.floats(1e-9, 1e-2))
def test_epsilon_solves_the_theorem_as_it_is_printed(sigma, sensitivity, delta):
    epsilon = gaussian_epsilon(sigma, sensitivity, delta)
    spread = sensitivity / sigma
    first = norm.cdf(spread / 2 - epsilon / spread)
    if epsilon == 0:
        assert first - norm.cdf(-spread / 2) <= delta * (1 + 1e-9)
    else:
        second = math.exp(epsilon + norm.logcdf(-spread / 2 - epsilon / spread))
        assert first - second == pytest.approx(delta, rel=1e-4)


@given(sigma=st.floats(1e-6, 1e6), factor=st.floats(1.01, 100), releases=st.integers(1, 1000))
def test_more_noise_never_costs_more(sigma, factor, releases):
    assert gaussian_epsilon(sigma * factor, 1.0, DELTA, releases) <= gaussian_epsilon(sigma, 1.0, DELTA, releases)


def test_releases_compose_to_one_release_of_less_noise():
    assert gaussian_epsilon(3.0, 2.0, DELTA, releases=9) == pytest.approx(gaussian_epsilon(1.0, 2.0, DELTA))


@pytest.mark.parametrize(("sigma", "delta"), [(0.0, DELTA), (1.0, 0.0), (1e-200, DELTA)])
def test_without_noise_or_without_delta_epsilon_is_infinite(sigma, delta):
    assert gaussian_epsilon(sigma, 2.0, delta) == math.inf


def test_tiny_noise_gives_a_finite_epsilon_of_the_right_size():
    # For a large spread S/s epsilon tends to (S/s)^2/2 + (S/s) * the normal quantile of delta.
    spread = 2e6
    assert gaussian_epsilon(1e-6, 2.0, DELTA) == pytest.approx(spread**2 / 2 + spread * norm.isf(DELTA), rel=1e-9)


@pytest.mark.parametrize(("sigma", "sensitivity", "releases"), [(1e6, 2.0, 1), (1.0, 0.0, 1), (1.0, 2.0, 0)])
def test_where_neighbours_cannot_be_told_apart_epsilon_is_zero(sigma, sensitivity, releases):
    assert gaussian_epsilon(sigma, sensitivity, DELTA, releases) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((-1.0, 2.0, DELTA), "sigma"), ((1.0, -2.0, DELTA), "sensitivity"), ((1.0, 2.0, 1.0), "delta")],
)
def test_an_argument_out_of_range_is_named(arguments, named):
    with pytest.raises(UserError, match=f"{named}=.*give a number"):
        gaussian_epsilon(*arguments)


@pytest.mark.parametrize(("accountant", "epsilon"), [("prv", 1.110), ("rdp", 1.352)])
def test_dp_sgd_costs_the_golden_epsilon(accountant, epsilon):
    assert dp_sgd_epsilon(1.0, RATE, STEPS, DELTA, accountant) == pytest.approx(epsilon, abs=1e-3)


def test_two_parts_clipped_apart_cost_the_golden_epsilon():
    assert dp_sgd_epsilon(1 / math.sqrt(2), RATE, STEPS, DELTA) == pytest.approx(2.822, abs=1e-3)


def test_sampling_everything_costs_what_the_gaussian_mechanism_costs():
    assert dp_sgd_epsilon(2.0, 1.0, 5, DELTA) == gaussian_epsilon(2.0, 1.0, DELTA, releases=5)


def test_noise_too_small_for_the_numerical_accountant_never_costs_less_than_more_noise():
    # Opacus' prv alone answers 712 at 0.01, infinity at 0.05 and ten steps, 262 at 0.05 and one step.
    assert 262 < dp_sgd_epsilon(0.05, 0.02, 10, DELTA) < dp_sgd_epsilon(0.01, 0.02, 10, DELTA) < math.inf


@pytest.mark.parametrize(("noise", "steps", "epsilon"), [(0.0, 5, math.inf), (1.0, 0, 0.0), (1e4, 1, 0.0)])
def test_the_ends_of_the_scale_need_no_accountant(noise, steps, epsilon):
    assert dp_sgd_epsilon(noise, 0.02, steps, DELTA) == pytest.approx(epsilon, abs=0.011)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1.0, 0.1, 1, DELTA), "noise_multiplier"),
        ((1.0, 1.5, 1, DELTA), "sample_rate"),
        ((1.0, 0.1, -1, DELTA), "steps"),
    ],
)
def test_a_dp_sgd_argument_out_of_range_is_named(arguments, named):
    with pytest.raises(UserError, match=f"{named}=.*give a number"):
        dp_sgd_epsilon(*arguments)
