"""Convolutions of many lanes in bfloat16, and what is between them, without a way back to float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from benchmark.lane_layers import Stacked, Stage
from benchmark.lane_pooling import halves, largest_of_four, routed

Rounded = list[tuple[Tensor, Tensor | None]]


class RoundedConvolutions(Stage):
    """`nn.Conv2d`, with ReLU and max pooling between and behind, as grouped convolutions with a group a lane.

    Products are of numbers rounded to 8 bits. ReLU and pooling round nothing, so that what is rounded once stays so
    until it leaves: the same numbers as with every layer's output in float32, in half the memory. Channels lie last:
    convolutions of 16 bits are a fifth faster so.

    Args:
        layers: As in `fits`, the first a convolution.
        names: The name of each parameter, by its identity.
    """

    def __init__(self, layers: Sequence[nn.Module], names: Mapping[int, str]) -> None:
        self.layers = list(layers)
        for at, (layer, behind) in enumerate(pairwise(layers)):
            # The maximum commutes with ReLU, which then has a quarter to do.
            if type(layer) is nn.ReLU and halves(behind):
                self.layers[at : at + 2] = [behind, layer]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        self.names = [(names[id(layer.weight)], names.get(id(layer.bias))) for layer in convolutions]

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer can be one of them."""
        if type(layer) is nn.Conv2d:
            return layer.padding_mode == "zeros"
        return type(layer) is nn.ReLU or (type(layer) is nn.MaxPool2d and not layer.return_indices)

    def weights(self, stacked: Stacked) -> Rounded:
        """Weight [L * out, in, k, k] and bias [L * out] of every convolution, rounded."""
        return [
            (
                # Rounded first: half as much is to be laid out anew.
                stacked[weight].flatten(0, 1).to(torch.bfloat16).contiguous(memory_format=torch.channels_last),
                None if bias is None else stacked[bias].flatten().to(torch.bfloat16),
            )
            for weight, bias in self.names
        ]

    def combine(self, weights: Rounded, seen: Tensor) -> Tensor:
        """[L, n, in, h, w] to [L, n, out, h', w']."""
        lanes, left = seen.shape[0], iter(weights)
        x = seen.transpose(0, 1).flatten(1, 2).to(torch.bfloat16, memory_format=torch.channels_last)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                weight, bias = next(left)
                x = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups=lanes * layer.groups)
            else:
                x = _Halved.apply(x) if halves(layer) else layer(x)
        out: Tensor = x.to(seen.dtype).unflatten(1, (lanes, -1)).transpose(0, 1)
        return out


class _Halved(torch.autograd.Function):
    """2x2 max pooling of [n, channels, h, w], channels last in memory, as sums along memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        four = _four(x.permute(0, 2, 3, 1))
        differences = x.new_empty((3, *four[0].shape))
        largest = largest_of_four(*four, differences)
        ctx.save_for_backward(differences)
        ctx.shape = x.shape
        return largest.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        n, channels, height, width = ctx.shape
        (differences,) = ctx.saved_tensors
        gradient = gradients[0].permute(0, 2, 3, 1).contiguous()
        # A last row or column that fills no window is in none.
        whole = gradient.new_empty if height % 2 == width % 2 == 0 else gradient.new_zeros
        given = whole((n, height, width, channels))
        routed(gradient, differences, _four(given))
        return given.permute(0, 3, 1, 2)


def _four(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What lies under the windows of [n, h, w, channels]: upper left, upper right, lower left, lower right."""
    high, wide = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return x[:, :high:2, :wide:2], x[:, :high:2, 1:wide:2], x[:, 1:high:2, :wide:2], x[:, 1:high:2, 1:wide:2]
