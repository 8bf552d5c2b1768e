"""Gradients for what has none: the slope of every output unit on the input unit it follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Correlations of all pairs of units take their number squared: 4 096 units are 64 MB.
_MOST_UNITS = 4096
_FOLLOWS = 0.5


@dataclass(frozen=True)
class Slope:
    """A linear map in which every output unit follows one input unit.

    Straight-through with slope 1 (Bengio, Leonard and Courville, 2013, arXiv 1308.3432) points the wrong way where a
    hook flips signs, and past the mark where it scales; a measured slope does not.

    Attributes:
        factor: [...] slope of each output unit.
        follows: [units] which input unit each output unit follows, or None where each follows its own.
    """

    factor: Tensor
    follows: Tensor | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """The map of `value`, [..., *unit shape] to the same."""
        if self.follows is not None:
            dims = self.factor.dim()
            value = value.flatten(-dims)[..., self.follows].unflatten(-1, self.factor.shape)
        return value * self.factor

    def is_one(self) -> bool:
        """Whether it gives back what it is given, up to rounding."""
        return self.follows is None and bool(((self.factor - 1).abs() < 1e-4).all())


def straight_through(value: Tensor, result: Tensor, slope: Slope) -> Tensor:
    """`result`, whose gradient with respect to `value` is the slope's; the same shapes."""
    line = slope(value)
    return result.detach() + (line - line.detach())


def slope_of(values: Tensor, results: Tensor, kept: Tensor | None = None) -> Slope:
    """Least-squares slope of each unit of `results` on the unit of `values` it follows.

    A unit follows its own, unless nearly all follow others much more closely: then units have been reordered.

    Args:
        values: [batch, ...], units independent of each other; differences of values, so that an offset is no matter.
        results: [batch, ...].
        kept: [batch, ...], which entries count; all by default.

    Returns:
        Slopes; those of units that never move are the median of the others.
    """
    weight = torch.ones_like(values) if kept is None else kept.to(values)
    x, y = (weight * values).flatten(1), (weight * results).flatten(1)
    follows = None
    own = (x * y).sum(0) / (x.norm(dim=0) * y.norm(dim=0)).clamp(min=torch.finfo(x.dtype).tiny)
    moving = y.norm(dim=0) > 0
    if kept is None and x.shape[1] <= _MOST_UNITS and bool(moving.any()) and float(own[moving].abs().mean()) < _FOLLOWS:
        every = torch.nn.functional.normalize(y, dim=0).T @ torch.nn.functional.normalize(x, dim=0)
        best = every.abs().max(1)
        if float(best.values[moving].mean()) > 2 * float(own[moving].abs().mean()):
            follows = best.indices
            x = x[:, follows]
    square = x.square().sum(0)
    known = square > 0
    factor = torch.where(known, (x * y).sum(0) / torch.where(known, square, 1.0), 0.0)
    if bool(known.any()):
        factor = torch.where(known, factor, factor[known].median())
    return Slope(factor.view(values.shape[1:]), follows)
