"""Convolution and pooling of many lanes at once: most of an attack's time at a shallow cut goes here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.lane_layers import Stacked, Stage
from benchmark.lane_patches import MOST, pair, patches, positive

# Rounding of a float32 sum of products, over the sum of the weights' sizes, for inputs of order one.
_ROUNDING = 2.0**-20


class PooledConvolution(Stage):
    """Convolution and 2x2 max pooling, with or without a ReLU between them, as one matrix product a lane.

    The four outputs under one pooling window are four shifts of one kernel: a convolution of stride 2 with four times
    the kernels, each a row and a column larger. So the patches are taken once per window and not once per output,
    and pooling is a maximum of four blocks of rows. The maximum commutes with the bias and with ReLU.
    """

    def __init__(self, module: nn.Conv2d, weight: str, bias: str | None, rectified: bool) -> None:
        self.module, self.weight, self.bias, self.rectified = module, weight, bias, rectified
        self.kernel = (module.kernel_size[0] + 1, module.kernel_size[1] + 1)

    @staticmethod
    def fits(conv: nn.Module, pool: nn.Module) -> bool:
        """Whether the pair can be run so, and is faster so: small kernels and large patches would grow too much."""
        return (
            type(conv) is nn.Conv2d
            and conv.stride == (1, 1)
            and conv.dilation == (1, 1)
            and conv.groups == 1
            and conv.padding_mode == "zeros"
            and min(conv.kernel_size) >= 5
            and conv.in_channels * (conv.kernel_size[0] + 1) * (conv.kernel_size[1] + 1) <= MOST
            and not isinstance(conv.padding, str)
            and halves(pool)
        )

    def weights(self, stacked: Stacked) -> tuple[Tensor, Tensor | None, Tensor]:
        """The shifted kernels, [L, 4 * out, in * (k+1)^2], window position first; bias and tie width, [L, out, 1]."""
        kernel = stacked[self.weight]
        lanes, out, inward, high, wide = kernel.shape
        shifts = _shifts(high, wide, kernel)
        moved = (kernel.reshape(-1, high * wide) @ shifts).view(lanes, out, inward, 4, -1)
        bias = None if self.bias is None else stacked[self.bias].unsqueeze(2)
        # A shifted kernel adds up in another order: outputs that are equal, as everywhere at a constant start, come
        # out unequal by rounding, and rounding would choose where the gradient goes. What is that close is a tie.
        tie = kernel.detach().abs().sum((2, 3, 4)).mul_(_ROUNDING).unsqueeze(2)
        return moved.permute(0, 3, 1, 2, 4).reshape(lanes, 4 * out, -1), bias, tie

    def inputs(self, x: Tensor) -> Tensor:
        """The patches, [L, in * (k+1)^2, n, h, w], h and w those of the pooled output."""
        return patches(x, pair(self.module.padding), self.kernel, 2)

    def combine(self, weights: tuple[Tensor, Tensor | None, Tensor], seen: Tensor) -> Tensor:
        """[L, n, out, h, w], the pooled output."""
        kernels, bias, tie = weights
        product = torch.bmm(kernels, seen.flatten(2))
        largest: Tensor = _LargestOfFour.apply(product.view(len(product), 4, -1, product.shape[2]), tie)
        if bias is not None:
            largest = largest + bias
        if self.rectified:
            largest = torch.relu(largest)
        out: Tensor = largest.unflatten(2, seen.shape[2:]).transpose(1, 2)
        return out


def halves(pool: nn.Module) -> bool:
    """Whether this is max pooling over 2x2 that do not overlap."""
    return (
        type(pool) is nn.MaxPool2d
        and pool.kernel_size in (2, (2, 2))
        and pool.stride in (2, (2, 2))
        and pool.padding in (0, (0, 0))
        and pool.dilation in (1, (1, 1))
        and not pool.ceil_mode
        and not pool.return_indices
    )


def _shifts(high: int, wide: int, like: Tensor) -> Tensor:
    """Matrix [high * wide, 4 * (high+1) * (wide+1)] of zeros and ones that moves a kernel to its four places."""
    identity = torch.eye(high * wide, dtype=like.dtype, device=like.device).view(-1, high, wide)
    places = [F.pad(identity, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
    return torch.stack(places, dim=1).flatten(1)


class _LargestOfFour(torch.autograd.Function):
    """Maximum over dimension 1 of [L, 4, channels, m].

    The gradient goes to it alone; among those no further apart than `tie`, [L, channels, 1], to the first, as in
    max pooling.
    """

    @staticmethod
    def forward(ctx: Any, four: Tensor, tie: Tensor) -> Tensor:
        first, second, third, fourth = four.unbind(1)
        differences = four.new_empty((3, *first.shape))
        largest = largest_of_four(first, second, third, fourth, differences)
        ctx.save_for_backward(differences.sub_(tie))
        return largest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient, (differences,) = gradients[0], ctx.saved_tensors
        out = gradient.new_empty((gradient.shape[0], 4, *gradient.shape[1:]))
        routed(gradient, differences, out.unbind(1))
        return out, None


def largest_of_four(first: Tensor, second: Tensor, third: Tensor, fourth: Tensor, differences: Tensor) -> Tensor:
    """The maximum of four tensors; to `differences`, [3, ...], what the gradient's way is found by."""
    upper, lower = torch.maximum(first, second), torch.maximum(third, fourth)
    torch.sub(second, first, out=differences[0])
    torch.sub(fourth, third, out=differences[1])
    torch.sub(lower, upper, out=differences[2])
    return torch.maximum(upper, lower, out=upper)


def routed(gradient: Tensor, differences: Tensor, four: Sequence[Tensor], tie: float = 0.0) -> None:
    """Write to each of `four` the gradient where it was the first within `tie` of the largest, else zeros."""
    lower = positive(gradient, differences[2], tie)
    upper = gradient - lower
    positive(upper, differences[0], tie, out=four[1])
    torch.sub(upper, four[1], out=four[0])
    positive(lower, differences[1], tie, out=four[3])
    torch.sub(lower, four[3], out=four[2])
