"""Convolutions of many lanes by the compiled code, where there is a compiler and the lanes are on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.compiled.agreement import usable
from benchmark.compiled.convolutions import CHANNELS, Convolved, compiles, convolved
from benchmark.lane_layers import Precision, Stacked, Stage, hooked
from benchmark.lane_patches import pair
from benchmark.lane_pooling import halves

# Outputs of a lane and channel, before a pooling, below which transforming the kernels may take longer than is saved:
# on 16x16 any number of channels is faster, on 8x8 256 channels are not.
_FEWEST = 192


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


@dataclass(frozen=True)
class Weights:
    """The head's, and what other stages have made of them so far, by the place of their block and their own."""

    stacked: Stacked
    prepared: dict[tuple[int, int], Any]


class CompiledConvolutions(Stage):
    """`nn.Conv2d`, with ReLU and max pooling between and behind, lane by lane, with channels last in memory.

    In bfloat16 images and weights are rounded to 8 bits as in `lane_rounded`, and stay so until they leave; products
    and their sums are in float32. From the first convolution on that has few outputs a lane, others do the work.

    Args:
        blocks: As from `blocks`, at least one.
        others: For each block, the stages that can run it and all behind it.
    """

    def __init__(self, blocks: Sequence[Block], others: Sequence[Sequence[Stage]]) -> None:
        self.blocks, self.others = blocks, others

    def weights(self, stacked: Stacked) -> Weights:
        """As they are: who uses them depends on the inputs."""
        return Weights(stacked, {})

    def combine(self, weights: Weights, seen: Tensor) -> Tensor:
        """[L, n, in, h, w] to [L, n, out, h', w']."""
        stacked, used = weights.stacked, self._worthwhile(weights.stacked, seen.shape)
        pairs = [
            (stacked[block.weight], None if block.bias is None else stacked[block.bias]) for block in self.blocks[:used]
        ]
        x = convolved(seen, [block.how for block in self.blocks[:used]], pairs) if used else seen
        if used < len(self.blocks):
            for at, stage in enumerate(self.others[used]):
                if (used, at) not in weights.prepared:
                    weights.prepared[used, at] = stage.weights(stacked)
                x = stage.combine(weights.prepared[used, at], stage.inputs(x))
        return x

    def _worthwhile(self, stacked: Stacked, shape: torch.Size) -> int:
        """How many of the blocks."""
        _, images, _, *sides = shape
        for used, block in enumerate(self.blocks):
            sides = [*block.how.outputs(sides[0], sides[1], stacked[block.weight])]
            if images * sides[0] * sides[1] * (4 if block.how.pooled else 1) < _FEWEST:
                return used
        return len(self.blocks)


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
    pictures, rectified = conv.in_channels % CHANNELS != 0, bool(behind) and _plain(behind[0], nn.ReLU)
    behind = behind[rectified:]
    pooled = not pictures and bool(behind) and _plain(behind[0], nn.MaxPool2d) and halves(behind[0])
    how = Convolved(pictures, conv.stride[0], pair(conv.padding), rectified, pooled, precision == "bfloat16")
    if not compiles(how, conv.weight) or (pictures and not first):
        return None
    bias = None if conv.bias is None else names[id(conv.bias)]
    return Block(names[id(conv.weight)], bias, how, 1 + rectified + pooled)


def _fits(conv: nn.Module) -> bool:
    return (
        _plain(conv, nn.Conv2d)
        and isinstance(conv, nn.Conv2d)
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def _plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    return type(layer) is kind and not hooked(layer)
