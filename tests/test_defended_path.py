from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.clients.client_model import client_model, has_stand_in
from attacks.clients.defended_path import ClientModel, DefendedPath
from attacks.clients.observed import observed
from benchmark.seeds import Rng
from defenses.gaussian_noise import GaussianNoise
from defenses.none import NoDefense
from tests.defended_views import defended, defense, key

UNITS = (8, 12, 12)
SENT = Rng("sent").normal((2, 3, *UNITS))


def path(seen, lanes=2, *, expected=True):
    client = client_model(seen, expected=expected)
    targets = observed(seen, client).target.expand(lanes, *seen.smashed.shape[1:])
    return DefendedPath([client], [(0, lane) for lane in range(lanes)], targets)


def dropout(z, rng, phase):
    return z * (rng.uniform_like(z) >= 0.6)


def slope_at(made, values):
    values = values.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(made.activations(values).sum(), values)
    return gradient


@pytest.mark.parametrize("expected", [True, False])
def test_without_a_defense_nothing_is_changed(expected):
    made = path(defended(NoDefense()), expected=expected)
    assert made.activations(SENT) is SENT
    assert made.inputs(SENT) is SENT


@pytest.mark.parametrize("expected", [True, False])
def test_signs_that_are_flipped_without_a_gradient_get_the_gradient_of_their_sign(expected):
    signs = key(UNITS)
    made = path(defended(defense(lambda z, rng, phase: 2 * signs * (z.detach() * 32).round() / 32)), expected=expected)
    torch.testing.assert_close(slope_at(made, SENT), (2 * signs).expand_as(SENT), atol=0.1, rtol=0)
    torch.testing.assert_close(made.activations(SENT), 2 * signs * SENT, atol=0.07, rtol=0.05)


def test_clipping_keeps_its_own_gradient():
    def clip(z, rng, phase):
        return z * (1 / z.flatten(1).norm(dim=1).clamp(min=1)).view(-1, 1, 1, 1)

    values = SENT.clone().requires_grad_(True)
    expected = torch.autograd.grad(clip(values.flatten(0, 1), None, None).sum(), values)[0]
    torch.testing.assert_close(slope_at(path(defended(defense(clip))), SENT), expected)


def test_an_inverted_contrast_is_inverted_before_the_head():
    made = path(defended(defense(inputs=lambda x, rng, phase: 1 - x)))
    x = Rng("x").uniform((2, 3, 1, 28, 28))
    torch.testing.assert_close(made.inputs(x), 1 - x)


def test_aware_draws_noise_anew_and_adaptive_takes_its_expectation():
    seen = defended(GaussianNoise(sigma=1.0))
    aware, adaptive = path(seen, expected=False), path(seen, expected=True)
    noise = [aware.activations(SENT) - SENT for _ in range(2)]
    assert all(one.std() == pytest.approx(1, abs=0.05) for one in noise)
    assert not torch.equal(*noise)
    assert adaptive.activations(SENT) is SENT


def test_noise_behind_a_clip_is_taken_out_of_the_expectation():
    def noisy(z, rng, phase):
        return (8 * z).tanh() + 0.3 * rng.normal_like(z)

    made = path(defended(defense(noisy)))
    error = made.activations(SENT / 8) - SENT.tanh()
    assert error.std() < 0.05


def test_a_draw_belongs_to_its_lane_however_lanes_are_chunked():
    client = client_model(defended(GaussianNoise(sigma=1.0)), expected=False)
    whole = DefendedPath([client, client], [(0, 0), (0, 1), (1, 0)], SENT[:1].expand(3, -1, -1, -1, -1))
    part = DefendedPath([client, client], [(0, 1), (1, 0)], SENT)
    values = SENT[:1].expand(3, -1, -1, -1, -1)
    torch.testing.assert_close(whole.activations(values)[1:], part.activations(values[1:]))


def test_each_view_goes_through_its_own_defense():
    views = [defended(defense(lambda z, rng, phase, gain=gain: gain * z)) for gain in (2.0, 3.0)]
    made = DefendedPath([client_model(one, expected=True) for one in views], [(0, 0), (1, 0)], SENT)
    torch.testing.assert_close(made.activations(SENT), SENT * torch.tensor([2.0, 3.0]).view(2, 1, 1, 1, 1))


def test_hooks_are_called_in_the_phase_of_the_view():
    def only_training(z, rng, phase):
        return -z if phase == "training" else z

    for phase, sign in (("training", -1), ("inference", 1)):
        made = path(defended(defense(only_training), phase=phase))
        torch.testing.assert_close(made.activations(SENT), sign * SENT)


def test_rounding_acts_at_the_size_of_what_was_sent():
    # An untrained head's values all round to 0 here; those of the client, fifty times as large, do not.
    def rounded(z, rng, phase):
        return (50 * z.detach()).round()

    made = path(defended(defense(rounded)), expected=False)
    factor = slope_at(made, SENT)
    assert factor.mean() == pytest.approx(50, rel=0.1)


def test_of_a_random_mask_what_was_let_through_in_any_view_is_joined():
    seen = defended(defense(dropout), k=20)
    client = client_model(seen, expected=True)
    clean = defended(NoDefense()).smashed[0]
    found = observed(seen, client)
    assert client.mask == pytest.approx(0.6, abs=0.03)
    assert DefendedPath([client], [(0, 0)], found.target.unsqueeze(0)).activations(SENT[:1]).equal(SENT[:1])
    known = found.weights > 0.5 * found.weights.max()
    assert known.float().mean() > 0.95
    torch.testing.assert_close(found.target[known], clean[known])


def test_of_one_view_a_unit_that_is_zero_counts_less():
    seen = defended(defense(dropout))
    found = observed(seen, client_model(seen, expected=True))
    zero = seen.smashed[0] == 0
    assert found.weights[zero].mean() < 0.6 * found.weights[~zero].mean()


def test_top_k_is_left_out_where_the_client_let_a_unit_through():
    def top(z, rng, phase):
        flat = z.flatten(1)
        return (flat * (flat >= flat.topk(100, 1).values[:, -1:])).view_as(z)

    seen = defended(defense(top), n=3)
    made = path(seen)
    values = Rng("clone").uniform((2, 3, *UNITS))
    made_of = made.activations(values)
    kept = (seen.smashed != 0).expand(2, -1, -1, -1, -1)
    assert torch.equal(made_of[kept], values[kept])
    assert (made_of[~kept] == 0).float().mean() > 0.85


@pytest.mark.parametrize("k", [1, 4])
def test_the_known_level_is_the_variance_of_the_mean(k):
    seen = defended(GaussianNoise(sigma=0.5), k=k)
    assert observed(seen, client_model(seen, expected=True)).level == pytest.approx(0.25 / k, rel=0.05)


def test_neither_gain_nor_offset_nor_sign_of_units_changes_what_their_errors_count():
    gains = 10 ** (4 * Rng("gains").uniform(UNITS) - 2)
    plain, changed = defended(NoDefense()), defended(defense(lambda z, rng, phase: gains * key(UNITS) * z - 3))
    weights = [observed(seen, client_model(seen, expected=True)).weights for seen in (plain, changed)]
    counted = weights[1] * gains.square()
    assert (counted / counted.mean()).std() < 0.02
    assert (weights[0] / weights[0].mean()).std() == 0


def test_errors_of_a_single_target_count_alike():
    seen = defended(defense(lambda z, rng, phase: 1e-3 * z), n=1)
    weights = observed(seen, client_model(seen, expected=True)).weights
    spread = defended(NoDefense(), n=1).smashed.var(correction=0)
    torch.testing.assert_close(weights.mean(), 1e6 / spread, rtol=0.01, atol=0)


def test_of_a_moving_head_the_last_epoch_counts_unless_noise_is_worth_more():
    moving = torch.linspace(0, 1, 5).view(5, 1, 1, 1, 1) * Rng("drift").normal((1, 4, *UNITS))
    still, quiet = defended(NoDefense(), k=5, phase="training"), ClientModel()
    moved = replace(still, smashed=still.smashed + moving)
    torch.testing.assert_close(observed(moved, quiet).target, moved.smashed[-1])
    torch.testing.assert_close(observed(still, quiet).target, still.smashed.mean(0))
    noisy = defended(GaussianNoise(sigma=3.0), k=5, phase="training")
    noisy = replace(noisy, smashed=noisy.smashed + moving)
    torch.testing.assert_close(observed(noisy, client_model(noisy, expected=True)).target, noisy.smashed.mean(0))
    torch.testing.assert_close(observed(replace(moved, phase="inference"), quiet).target, moved.smashed.mean(0))


def test_a_stand_in_takes_the_place_of_the_hook_only_where_asked_for():
    seen = defended(defense(lambda z, rng, phase: 2 * z, model=nn.Tanh()))
    assert has_stand_in(seen)
    assert not has_stand_in(defended(GaussianNoise(sigma=1.0)))
    targets = seen.smashed
    for stand_in, expected in ((False, 2 * SENT[:1]), (True, SENT[:1].tanh())):
        client = client_model(seen, expected=True, stand_in=stand_in)
        made = DefendedPath([client], [(0, 0)], targets)
        torch.testing.assert_close(made.activations(SENT[:1]), expected)
