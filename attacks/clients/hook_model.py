"""What an attacker finds out about one hook of a defense by calling its own copy, and how it then runs it.

A hook may be anything: differentiable or not, random or not, with a gradient that lies. So it is called on probes with
the same stream of random numbers again and again; what comes back says what kind it is (see `Kind`), and that decides
how `HookModel` computes values and gradients.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attacks.clients.straight_through import Slope, slope_of
from benchmark.errors import PluginError

if TYPE_CHECKING:
    from benchmark.protection import Protection
    from benchmark.view import Phase

Which = Literal["inputs", "activations"]

# An error of a hundredth of what the hook gives out is no hiding place: 8 bits and more count as affine.
_AFFINE_ERROR = 1e-2
_EQUAL = 1e-5
_MEAN_DRAWS = 16
# Finite differences and gradients of a kink or a mask agree in most directions, of a lying gradient in none.
_AGREEMENT = 0.5
_STEP = 0.1


@dataclass(frozen=True)
class Hook:
    """One defense's hook in one phase, called on values alone.

    Attributes:
        protection: A protection of this defense and no other; the attacker's own.
        which: Which hook.
        phase: The phase it is called in.
        drifts: Whether a call changes what later calls give, so that each needs a copy as the victim left it.
    """

    protection: Protection
    which: Which
    phase: Phase
    drifts: bool = False

    def __call__(self, value: Tensor, *stream: object) -> Tensor:
        """What it makes of `value`, [batch, ...], with the random numbers called `stream`: the same for the same name.

        Gradients flow where `value` requires them and the hook lets them.

        Raises:
            PluginError: The hook broke its contract, or cuts the gradient off where `value` requires one.
        """
        protection = self.protection.restarted(*stream)
        if self.drifts:
            protection = copy.deepcopy(protection)
        call = protection.inputs if self.which == "inputs" else protection.activations
        return call(value, self.phase)


@dataclass(frozen=True)
class Kind:
    """What probing found.

    Attributes:
        slope: Least-squares slope of every output unit on its input unit; exact where `affine`.
        offset: [...] mean of what is added to it, 0 where noise alone explains it and under a mask.
        affine: The hook is slope * value + offset for every unit by itself, beside noise that does not depend on the
            value, and beside a mask.
        straight: The mean over its randomness is slope * value + offset; never claimed under a mask.
        random: Two streams give two results.
        additive: The randomness does not depend on the value: h(v, r) = h(v) + n(r).
        masked: Share of entries that are given out as exactly 0 though the value is not; what is kept is affine.
        differentiable: Its gradient agrees with finite differences.
        by_sample: A sample's result does not depend on the other samples of the batch; never claimed where random.
    """

    slope: Slope
    offset: Tensor
    affine: bool
    straight: bool
    random: bool
    additive: bool
    masked: float
    differentiable: bool
    by_sample: bool

    @property
    def identity(self) -> bool:
        """Whether the expectation changes nothing."""
        return self.affine and self.slope.is_one() and not bool(self.offset.any())


def probe(hook: Hook, values: Tensor) -> tuple[Hook, Kind]:
    """Find out what a hook does.

    Args:
        hook: What to call.
        values: [batch, ...] typical values; units independent of each other, at least 8 samples.

    Returns:
        The hook, marked where calls drift, and its kind.
    """
    values = values.detach()
    with torch.no_grad():
        hook = _marked(hook, values)
        other = values.roll(1, 0)
        here, there = hook(values, "probe", 0), hook(other, "probe", 0)
        again = hook(values, "probe", 1)
        change, step = here - there, values - other
        random = not _same(here, again)
        additive = random and _same(change, again - hook(other, "probe", 1), here)
        by_sample = not random and _same(here[: len(here) // 2], hook(values[: len(here) // 2], "probe", 0))

        if random and not additive:
            draws = range(1, _MEAN_DRAWS)
            change = change + sum((hook(values, "slope", at) - hook(other, "slope", at) for at in draws), start=0.0)
            change = change / _MEAN_DRAWS
        slope = slope_of(step, change)
        affine = (additive or not random) and _small(change - slope(step), change)
        masked, straight = 0.0, False
        if not affine and not additive and bool(((here == 0) & (values != 0)).any()):
            kept = here != 0
            line = slope_of(values, here, kept)
            if _small(torch.where(kept, here - line(values), 0.0), here):
                # What a fixed rule sets to 0 (top-k) depends on the value: the hook itself must say which.
                slope, affine = line, random
                masked = float(((here == 0) & (values != 0)).sum() / (values != 0).sum())
        offset = torch.zeros_like(values[0])
        if not masked:
            mean, error = _mean(hook, values, slope)
            offset = mean.mean(0)
            if bool(offset.square().mean() <= 2 * error.mean() / len(values)):
                offset = torch.zeros_like(offset)
            straight = affine or (random and not additive and bool((mean - offset).square().mean() <= 2 * error.mean()))
    differentiable = not affine and not masked and _differentiable(hook, values)
    return hook, Kind(slope, offset, affine, straight, random, additive, masked, differentiable, by_sample)


def _marked(hook: Hook, values: Tensor) -> Hook:
    """The hook, with `drifts` set where it gives another result after other calls; it is left as it was found."""
    untouched = replace(hook, protection=copy.deepcopy(hook.protection))
    first = hook(values, "drift")
    for scale in (0.5, 3.0):
        hook(scale * values, "drift", scale)
    same = torch.equal(first, hook(values, "drift"))
    return replace(untouched, drifts=not same)


def _same(one: Tensor, other: Tensor, size: Tensor | None = None) -> bool:
    """Equal up to the rounding of numbers as large as `size`."""
    largest = (one if size is None else size).abs().max()
    return bool((one - other).abs().max() <= _EQUAL * largest)


def _small(error: Tensor, whole: Tensor) -> bool:
    """Whether the error of each unit is small beside that unit, or beside all where the unit is nearly dead."""
    unit, everywhere = whole.square().mean(0), whole.square().mean()
    return bool((error.square().mean(0) <= _AFFINE_ERROR**2 * unit.clamp(min=float(everywhere) * 1e-2)).all())


def _mean(hook: Hook, values: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
    """[batch, ...] mean over draws of what is added to the slope's line, and the variance of that mean."""
    draws = torch.stack([hook(values, "mean", draw) - slope(values) for draw in range(_MEAN_DRAWS)])
    rounding = (_EQUAL * draws.abs().max()).square()
    return draws.mean(0), draws.var(0) / _MEAN_DRAWS + rounding


def _differentiable(hook: Hook, values: Tensor) -> bool:
    """Whether the hook's own gradient predicts what a small step changes, sample by sample."""
    generator = torch.Generator(device="cpu").manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(values.shape, generator=generator, device="cpu").to(values)

    step, direction = _STEP * values.std() * normal(), normal()
    at = values.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            out = hook(at, "probe", 0)
            if not out.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(out, at, direction, materialize_grads=True)
    except PluginError:
        # In training a hook that cuts the gradient off is refused; as values it can still be called.
        return False
    with torch.no_grad():
        real = ((hook(values + step, "probe", 0) - out) * direction).flatten(1).sum(1)
    predicted = (gradient * step).flatten(1).sum(1)
    size = float(predicted.norm() * real.norm())
    return size > 0 and float(predicted @ real) > _AGREEMENT * size and 0.5 < float(predicted.norm() / real.norm()) < 2
