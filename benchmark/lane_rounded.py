"""Convolutions of many lanes in bfloat16, and what is between them, without a way back to float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.lane_layers import Stacked, Stage

Rounded = list[tuple[Tensor, Tensor | None]]


class RoundedConvolutions(Stage):
    """`nn.Conv2d`, with ReLU and max pooling between and behind, as grouped convolutions with a group a lane.

    Products are of numbers rounded to 8 bits. ReLU and pooling round nothing, so that what is rounded once stays so
    until it leaves: the same numbers as with every layer's output in float32, in half the memory.

    Args:
        layers: As in `fits`, the first a convolution.
        names: The name of each parameter, by its identity.
    """

    def __init__(self, layers: Sequence[nn.Module], names: Mapping[int, str]) -> None:
        self.layers = layers
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
                stacked[weight].flatten(0, 1).to(torch.bfloat16),
                None if bias is None else stacked[bias].flatten().to(torch.bfloat16),
            )
            for weight, bias in self.names
        ]

    def combine(self, weights: Rounded, seen: Tensor) -> Tensor:
        """[L, n, in, h, w] to [L, n, out, h', w']."""
        lanes, left = seen.shape[0], iter(weights)
        x = seen.transpose(0, 1).flatten(1, 2).to(torch.bfloat16)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                weight, bias = next(left)
                x = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups=lanes * layer.groups)
            else:
                x = layer(x)
        out: Tensor = x.to(seen.dtype).unflatten(1, (lanes, -1)).transpose(0, 1)
        return out
