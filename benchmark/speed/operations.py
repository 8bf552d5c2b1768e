"""How many operations a step takes, and how fast this machine multiplies matrices: the floor under every attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark import registry
from benchmark.models import network, split
from benchmark.seeds import Rng
from benchmark.speed.processes import Turns

_SIDE = 2048


@dataclass(frozen=True)
class Operations:
    """Floating-point operations (a multiplication and an addition are two) of one step on one image.

    Only convolutions and matrix products count, and only the gradients that the step needs.

    Attributes:
        image_step: Forward, and backward to the image.
        model_step: Forward, and backward to the weights.
    """

    image_step: int
    model_step: int

    @property
    def mean(self) -> float:
        """Of as many steps of either kind."""
        return (self.image_step + self.model_step) / 2


def operations(model: str, cut: str, image_shape: tuple[int, int, int]) -> Operations:
    """Count them, from the shapes that really pass through the head of a model.

    Args:
        model: Its name.
        cut: Name of the head's last module.
        image_shape: Channels, height, width.

    Raises:
        UserError: There is no such model or cut.
    """
    factory = registry.load_model(registry.reference("model", model))
    head = split(network(factory, image_shape, 10, Rng("operations")), cut).head
    counts = []
    for wants_image in (True, False):
        x = torch.zeros(1, *image_shape, device="cpu", requires_grad=wants_image)
        head.requires_grad_(not wants_image)
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            head(x).sum().backward()
        counts.append(int(counter.get_total_flops()))
    return Operations(*counts)


@dataclass(frozen=True)
class MatrixProducts:
    """Products of square matrices, counted in floating-point operations.

    Attributes:
        precision: `float32` or `bfloat16`.
    """

    precision: str

    def run(self, turns: Turns) -> None:
        """Multiply until nobody waits for it any more."""
        kind: torch.dtype = getattr(torch, self.precision)
        left, right = (Rng("product", side).normal((_SIDE, _SIDE)).to(kind) for side in ("left", "right"))
        out = torch.empty_like(left)
        turns.ready()
        while True:
            torch.mm(left, right, out=out)
            turns.did(2 * _SIDE**3)
