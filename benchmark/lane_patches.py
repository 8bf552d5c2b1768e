"""Convolutions of many lanes as one matrix product a lane, on patches of the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from benchmark.lane_layers import Stacked, Stage

# Numbers in a patch beyond which the patches take longer to copy than they save.
MOST = 128


class PatchConvolution(Stage):
    """`nn.Conv2d` of few channels, and a ReLU if there is one behind it, with channels last in memory.

    Args:
        module: The convolution.
        weight, bias: The names of its weights.
        rectified: Whether the ReLU is part of it.
    """

    def __init__(self, module: nn.Conv2d, weight: str, bias: str | None, rectified: bool) -> None:
        self.module, self.weight, self.bias, self.rectified = module, weight, bias, rectified

    @staticmethod
    def fits(conv: nn.Module) -> bool:
        """Whether this is a convolution that can be run so, of patches small enough."""
        return (
            type(conv) is nn.Conv2d
            and conv.stride[0] == conv.stride[1]
            and conv.dilation == (1, 1)
            and conv.groups == 1
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1] <= MOST
        )

    def weights(self, stacked: Stacked) -> tuple[Tensor, Tensor | None]:
        """Kernels [L, out, in * kh * kw] and bias [L, 1, out]."""
        bias = None if self.bias is None else stacked[self.bias].unsqueeze(1)
        return stacked[self.weight].flatten(2), bias

    def inputs(self, x: Tensor) -> Tensor:
        """The patches, [L, in * kh * kw, n, h', w']."""
        high, wide = self.module.kernel_size
        return patches(x, pair(self.module.padding), (high, wide), self.module.stride[0])

    def combine(self, weights: tuple[Tensor, Tensor | None], seen: Tensor) -> Tensor:
        """[L, n, out, h', w']."""
        kernels, bias = weights
        out: Tensor = _Product.apply(seen, kernels, bias, self.rectified)
        return out.permute(0, 1, 4, 2, 3)


def patches(x: Tensor, padding: tuple[int, int], kernel: tuple[int, int], stride: int) -> Tensor:
    """Patches [L, channels * kh * kw, n, h, w] of images [L, n, channels, height, width]."""
    vertical, horizontal = padding
    if vertical or horizontal:
        x = F.pad(x, (horizontal, horizontal, vertical, vertical))
    found: Tensor = _Patches.apply(x, kernel, stride)
    return found


def pair(value: int | tuple[int, ...] | str) -> tuple[int, int]:
    """A module's size that stands for both directions or for each: vertical, horizontal."""
    assert not isinstance(value, str)
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def positive(gradient: Tensor, what: Tensor, above: float, out: Tensor | None = None) -> Tensor:
    """`gradient` where `what` is larger than `above`, else zero: in one pass, where truth values would take three."""
    threshold = torch.ops.aten.threshold_backward
    found: Tensor = (
        threshold(gradient, what, above) if out is None else threshold(gradient, what, above, grad_input=out)
    )
    return found


class _Patches(torch.autograd.Function):
    """`patches` of padded images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, int], stride: int) -> Tensor:
        ctx.shape, ctx.kernel, ctx.stride = x.shape, kernel, stride
        windows = x.unfold(3, kernel[0], stride).unfold(4, kernel[1], stride)
        lanes, n, _, h, w = windows.shape[:5]
        return windows.permute(0, 2, 5, 6, 1, 3, 4).reshape(lanes, -1, n, h, w)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        lanes, n, channels, height, width = ctx.shape
        (high, wide), step = ctx.kernel, ctx.stride
        rows, columns = gradients[0].shape[3:]
        given = gradients[0].view(lanes, channels, high, wide, n, rows, columns)
        # What lies a stride apart lies side by side here, so that every sum runs along memory: by the remainders of a
        # place and then by its quotients. At stride 2, on small images, measured up to twice as fast as strided sums,
        # which were three times as fast as `fold`.
        down, right = -(-high // step), -(-wide // step)
        apart = given.new_zeros(lanes, channels, step, step, n, rows + down - 1, columns + right - 1)
        for i in range(down):
            for j in range(right):
                part = given[:, :, i * step : (i + 1) * step, j * step : (j + 1) * step]
                apart[:, :, : part.shape[2], : part.shape[3], :, i : i + rows, j : j + columns] += part
        whole = apart.permute(0, 4, 1, 5, 2, 6, 3).reshape(lanes, n, channels, step * apart.shape[5], -1)
        # A longer kernel, of whole strides, would reach further: there it is empty. What no patch reaches is missing.
        whole = whole[..., :height, :width]
        below, beside = height - whole.shape[3], width - whole.shape[4]
        return F.pad(whole, (0, beside, 0, below)) if below or beside else whole, None, None


class _Product(torch.autograd.Function):
    """Patches [L, k, n, h, w] and kernels [L, out, k] to outputs [L, n, h, w, out]; no gradient lies across."""

    @staticmethod
    def forward(ctx: Any, seen: Tensor, kernels: Tensor, bias: Tensor | None, rectified: bool) -> Tensor:
        rows, columns = seen.flatten(2).transpose(1, 2), kernels.transpose(1, 2)
        product = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias, rows, columns)
        out: Tensor = product.unflatten(1, seen.shape[2:])
        if rectified:
            out.relu_()
        ctx.save_for_backward(seen, kernels, out if rectified else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen, kernels, out = ctx.saved_tensors
        gradient = (gradients[0] if out is None else positive(gradients[0], out, 0.0)).flatten(1, 3)
        of_seen, of_kernels, of_bias = ctx.needs_input_grad[:3]
        return (
            torch.bmm(kernels.transpose(1, 2), gradient.transpose(1, 2)).view(seen.shape) if of_seen else None,
            torch.bmm(gradient.transpose(1, 2), seen.flatten(2).transpose(1, 2)) if of_kernels else None,
            gradient.sum(1, keepdim=True) if of_bias else None,
            None,
        )
