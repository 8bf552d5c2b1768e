"""Convolutions of many lanes by the compiled code, where there is a compiler and the lanes are on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.compiled.agreement import usable
from benchmark.compiled.convolutions import CHANNELS, MOST, Convolved, convolved
from benchmark.lane_layers import Precision, Stacked, Stage, hooked
from benchmark.lane_patches import pair
from benchmark.lane_pooling import halves


@dataclass(frozen=True)
class Block:
    """A convolution with the ReLU and the 2x2 max pooling behind it, if they are there.

    Attributes:
        weight, bias: The names of its weights.
        how: What it does besides them.
        layers: How many it is.
    """

    weight: str
    bias: str | None
    how: Convolved
    layers: int


class CompiledConvolutions(Stage):
    """`nn.Conv2d`, with ReLU and max pooling between and behind, lane by lane, with channels last in memory.

    In bfloat16 images and weights are rounded to 8 bits as in `lane_rounded`, and stay so until they leave; products
    and their sums are in float32.

    Args:
        blocks: As from `blocks`, at least one.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks

    def weights(self, stacked: Stacked) -> list[tuple[Tensor, Tensor | None]]:
        """Kernels [L, out, in, kh, kw] and bias [L, out] of every convolution."""
        return [(stacked[block.weight], None if block.bias is None else stacked[block.bias]) for block in self.blocks]

    def combine(self, weights: list[tuple[Tensor, Tensor | None]], seen: Tensor) -> Tensor:
        """[L, n, in, h, w] to [L, n, out, h', w']."""
        return convolved(seen, [block.how for block in self.blocks], weights)


def blocks(layers: Sequence[nn.Module], names: Mapping[int, str], precision: Precision) -> list[Block]:
    """Those that the first layers are, as far as the compiled code goes; none where it is not usable.

    Args:
        layers: Of a head, from any on.
        names: The name of each parameter, by its identity.
        precision: Of the convolutions.
    """
    found: list[Block] = []
    layers = list(layers)
    while layers:
        block = _block(layers, names, precision, first=not found)
        if block is None:
            break
        found.append(block)
        layers = layers[block.layers :]
    return found if found and usable() else []


def _block(layers: Sequence[nn.Module], names: Mapping[int, str], precision: Precision, first: bool) -> Block | None:
    conv, *behind = layers
    if not _fits(conv):
        return None
    assert isinstance(conv, nn.Conv2d)
    wide, padding = conv.in_channels % CHANNELS == 0, pair(conv.padding)
    if wide and (conv.kernel_size != (3, 3) or conv.stride != (1, 1)):
        return None
    if not wide and not (first and conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1] <= MOST):
        return None
    rectified = bool(behind) and type(behind[0]) is nn.ReLU and not hooked(behind[0])
    behind = behind[rectified:]
    pooled = wide and bool(behind) and halves(behind[0]) and not hooked(behind[0])
    how = Convolved(not wide, conv.stride[0], padding, rectified, pooled, precision == "bfloat16")
    bias = None if conv.bias is None else names[id(conv.bias)]
    return Block(names[id(conv.weight)], bias, how, 1 + rectified + pooled)


def _fits(conv: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and not hooked(conv)
        and conv.weight.device.type == "cpu"
        and conv.weight.dtype == torch.float32
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.out_channels % CHANNELS == 0
    )
