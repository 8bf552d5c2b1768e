import pytest
import torch

from attacks.clients.hook_model import Hook, probe
from benchmark.seeds import Rng
from tests.defended_views import defense, key, protection

VALUES = Rng("values").normal((64, 3, 4, 4))
UNITS = VALUES.shape[1:]


def probed(activations, phase="inference"):
    return probe(Hook(protection(defense(activations)), "activations", phase), VALUES)


def top(z, share=0.25):
    flat = z.flatten(1)
    edge = flat.abs().topk(int(share * flat.shape[1]), 1).values[:, -1:]
    return (flat * (flat.abs() >= edge)).view_as(z)


class Lying(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z.tanh()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


@pytest.mark.parametrize(
    ("name", "hook", "slope", "offset"),
    [
        ("gain", lambda z, rng, phase: 1e-3 * z, 1e-3, 0.0),
        ("constant", lambda z, rng, phase: z - 3, 1.0, -3.0),
        ("signs, detached", lambda z, rng, phase: z.detach() * key(UNITS), key(UNITS), 0.0),
        ("16 bits", lambda z, rng, phase: (z.detach() * 4096).round() / 4096, 1.0, 0.0),
        ("frozen noise", lambda z, rng, phase: z + Rng("frozen").normal(UNITS), 1.0, Rng("frozen").normal(UNITS)),
    ],
)
def test_what_is_a_line_unit_by_unit_is_found_to_be_one(name, hook, slope, offset):
    _, kind = probed(hook)
    assert kind.affine
    assert not kind.random
    torch.testing.assert_close(kind.slope.factor, torch.as_tensor(slope).expand(UNITS), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(kind.offset, torch.as_tensor(offset).expand(UNITS), rtol=1e-3, atol=1e-3)


def test_additive_noise_of_mean_zero_leaves_the_identity():
    _, kind = probed(lambda z, rng, phase: z + 2 * rng.normal_like(z))
    assert kind.random
    assert kind.additive
    assert kind.identity


def test_the_mean_of_additive_noise_is_an_offset():
    _, kind = probed(lambda z, rng, phase: z + 0.1 * (1 + rng.normal_like(z)))
    assert kind.additive
    torch.testing.assert_close(kind.offset, torch.full(UNITS, 0.1), atol=0.02, rtol=0)


def test_a_random_mask_is_told_from_its_zeros():
    _, kind = probed(lambda z, rng, phase: 2 * z * (rng.uniform_like(z) >= 0.6))
    assert kind.random
    assert kind.masked == pytest.approx(0.6, abs=0.03)
    torch.testing.assert_close(kind.slope.factor, torch.full(UNITS, 2.0))


def test_top_k_is_a_fixed_mask_that_has_to_be_called_and_is_passed_straight_through():
    _, kind = probed(lambda z, rng, phase: top(z))
    assert kind.masked == pytest.approx(0.75, abs=0.03)
    assert not kind.random
    assert not kind.affine
    assert not kind.differentiable
    assert kind.slope.is_one()


def test_reordered_units_are_followed():
    order = Rng("order").permutation(48)
    _, kind = probed(lambda z, rng, phase: -2 * z.detach().flatten(1)[:, order].view_as(z))
    assert kind.affine
    torch.testing.assert_close(kind.slope(VALUES), -2 * VALUES.flatten(1)[:, order].view_as(VALUES))


@pytest.mark.parametrize(
    ("hook", "differentiable"),
    [
        (lambda z, rng, phase: z.tanh(), True),
        (lambda z, rng, phase: z * (2 / z.flatten(1).norm(dim=1).clamp(min=2)).view(-1, 1, 1, 1), True),
        (lambda z, rng, phase: z.sign(), False),
        (lambda z, rng, phase: z.tanh().detach(), False),
        (lambda z, rng, phase: z + (z.detach().sign() - z.detach()), False),
        (lambda z, rng, phase: Lying.apply(z), False),
    ],
)
@pytest.mark.parametrize("phase", ["inference", "training"])
def test_a_gradient_is_used_only_where_it_says_what_a_step_does(hook, differentiable, phase):
    _, kind = probed(hook, phase)
    assert kind.differentiable == differentiable


def test_a_random_gain_has_its_mean_for_a_line():
    _, kind = probed(lambda z, rng, phase: z * (0.5 + rng.uniform((len(z), 1, 1, 1))))
    assert kind.straight
    assert not kind.additive
    torch.testing.assert_close(kind.slope.factor, torch.ones(UNITS), atol=0.1, rtol=0)


def test_what_depends_on_the_batch_is_noticed():
    _, alone = probed(lambda z, rng, phase: z.tanh())
    _, coupled = probed(lambda z, rng, phase: (z - z.mean(0)).tanh())
    assert alone.by_sample
    assert not coupled.by_sample


def test_a_hook_that_drifts_when_called_is_called_on_copies():
    def follow(self, z, rng, phase):
        self.state["size"] = self.state["size"].lerp(z.square().mean(), 0.5)
        return z.tanh() * self.state["size"]

    made = defense(lambda z, rng, phase: z)
    made.state["size"] = torch.tensor(1.0)
    type(made).protect_activations = follow
    hook, _ = probe(Hook(protection(made), "activations", "training"), VALUES)
    assert hook.drifts
    torch.testing.assert_close(hook(VALUES, "any"), hook(VALUES, "any"))


def test_the_same_stream_gives_the_same_draws_and_another_gives_others():
    hook = Hook(protection(defense(lambda z, rng, phase: z + rng.normal_like(z))), "activations", "inference")
    assert torch.equal(hook(VALUES, "step", 1), hook(VALUES, "step", 1))
    assert not torch.equal(hook(VALUES, "step", 1), hook(VALUES, "step", 2))
