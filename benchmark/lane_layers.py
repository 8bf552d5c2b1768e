"""How each kind of layer runs for many lanes at once: stacked weights [L, ...] on stacked batches [L, n, ...].

A stage splits its work in three, so that a caller whose inputs or whose weights stay fixed does the fixed part once:
`weights` (what depends on the weights alone), `inputs` (what depends on the inputs alone) and `combine`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

Stacked = Mapping[str, Tensor]
Precision = Literal["float32", "bfloat16"]


class Stage(ABC):
    """One or more layers of a head, for all lanes at once."""

    @abstractmethod
    def weights(self, stacked: Stacked) -> Any:
        """What depends on the weights alone; `stacked` holds the head's parameters and buffers, [L, ...] each."""

    def inputs(self, x: Tensor) -> Tensor:
        """What depends on the inputs alone; `x` is [L, n, ...]."""
        return x

    @abstractmethod
    def combine(self, weights: Any, seen: Tensor) -> Tensor:
        """The output, [L, n, ...], from what `weights` and `inputs` gave."""


class PerSample(Stage):
    """A layer without weights that treats every sample by itself: lanes are folded into the batch."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def weights(self, stacked: Stacked) -> None:
        """Nothing."""

    def combine(self, weights: None, seen: Tensor) -> Tensor:
        """The module on [L * n, ...]."""
        folded: Tensor = self.module(seen.flatten(0, 1))
        out: Tensor = folded.unflatten(0, seen.shape[:2])
        return out


class Dense(Stage):
    """`nn.Linear` as a batched matrix product."""

    def __init__(self, weight: str, bias: str | None) -> None:
        self.weight, self.bias = weight, bias

    def weights(self, stacked: Stacked) -> tuple[Tensor, Tensor | None]:
        """Weight [L, out, in] and bias [L, out, 1]."""
        return stacked[self.weight], None if self.bias is None else stacked[self.bias].unsqueeze(2)

    def combine(self, weights: tuple[Tensor, Tensor | None], seen: Tensor) -> Tensor:
        """[L, n, ..., in] to [L, n, ..., out]."""
        weight, bias = weights
        # Weights first: so their gradient comes out as they lie in memory, and need not be copied.
        columns = seen.flatten(1, -2).transpose(1, 2)
        product = torch.bmm(weight, columns) if bias is None else torch.baddbmm(bias, weight, columns)
        out: Tensor = product.transpose(1, 2).unflatten(1, seen.shape[1:-1])
        return out


class Convolution(Stage):
    """`nn.Conv2d` as one convolution with a group a lane."""

    def __init__(self, module: nn.Conv2d, weight: str, bias: str | None) -> None:
        self.module, self.weight, self.bias = module, weight, bias

    def weights(self, stacked: Stacked) -> tuple[Tensor, Tensor | None]:
        """Weight [L * out, in, k, k] and bias [L * out]."""
        bias = None if self.bias is None else stacked[self.bias].flatten()
        return stacked[self.weight].flatten(0, 1), bias

    def combine(self, weights: tuple[Tensor, Tensor | None], seen: Tensor) -> Tensor:
        """[L, n, in, h, w] to [L, n, out, h', w']."""
        weight, bias = weights
        lanes, module = seen.shape[0], self.module
        side_by_side = seen.transpose(0, 1).flatten(1, 2)
        grouped = F.conv2d(
            side_by_side,
            weight,
            bias,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=lanes * module.groups,
        )
        out: Tensor = grouped.unflatten(1, (lanes, -1)).transpose(0, 1)
        return out


class Anything(Stage):
    """Any module at all, by `torch.func.vmap`; one that vmap cannot batch runs lane by lane."""

    def __init__(self, module: nn.Module, names: Sequence[tuple[str, str]]) -> None:
        self.module, self.names = module, names
        self._batched = vmap(self._one_lane, randomness="different")
        self._vmappable = True

    def weights(self, stacked: Stacked) -> dict[str, Tensor]:
        """The module's own parameters and buffers."""
        return {own: stacked[name] for own, name in self.names}

    def combine(self, weights: dict[str, Tensor], seen: Tensor) -> Tensor:
        """[L, n, ...] to [L, n, ...]."""
        if self._vmappable:
            try:
                batched: Tensor = self._batched(weights, seen)
            except (RuntimeError, ValueError):
                # Data-dependent control flow or an operator without a batching rule: if the module itself is at
                # fault, the loop below raises the same again.
                self._vmappable = False
            else:
                return batched
        lanes = [
            self._one_lane({own: value[lane] for own, value in weights.items()}, seen[lane])
            for lane in range(len(seen))
        ]
        return torch.stack(lanes)

    def _one_lane(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(self.module, weights, (x,))
        return out


def hooked(module: nn.Module) -> bool:
    """Whether somebody is called before or behind the module, and would miss it if it were run another way."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
