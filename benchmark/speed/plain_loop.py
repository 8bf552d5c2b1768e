"""What stands in for the published loop where no checkout of it is given: its arithmetic, one image, plain PyTorch.

Objective, weights, rates and optimiser: Erdogan, Kupcu and Cicek, "UnSplit", WPES 2022, as their code has them (with
the mean squared pixel). Written for this benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import registry
from benchmark.models import network, split
from benchmark.seeds import Rng
from benchmark.speed.processes import Turns

_TV, _L2, _RATE = 0.1, 1.0, 1e-3


class PlainLoop:
    """One image and one clone, optimised by turns.

    Args:
        clone: A head in evaluation mode.
        smashed: What it must give, [1, ...].
        image_shape: Channels, height, width.
    """

    def __init__(self, clone: nn.Module, smashed: Tensor, image_shape: tuple[int, int, int]) -> None:
        self.clone, self.smashed = clone, smashed
        self.image = torch.full((1, *image_shape), 0.5, device=smashed.device, requires_grad=True)
        self._image_adam = torch.optim.Adam([self.image], lr=_RATE, amsgrad=True)
        self._clone_adam = torch.optim.Adam(clone.parameters(), lr=_RATE, amsgrad=True)

    def round(self, steps: int) -> None:
        """`steps` on the image, then as many on the clone.

        Either kind computes the gradients of both, as the published loop does.
        """
        for _ in range(steps):
            self._image_adam.zero_grad()
            (self._mismatch() + self._prior()).backward()
            self._image_adam.step()
        for _ in range(steps):
            self._clone_adam.zero_grad()
            self._mismatch().backward()
            self._clone_adam.step()

    def _mismatch(self) -> Tensor:
        return F.mse_loss(self.clone(self.image), self.smashed)

    def _prior(self) -> Tensor:
        slopes = [self.image.diff(dim=dimension).square().mean() for dimension in (2, 3)]
        return _TV * (slopes[0] + slopes[1]) + _L2 * self.image.square().mean()


@dataclass(frozen=True)
class PlainTurns:
    """The plain loop on an image of random pixels.

    Attributes:
        model, cut: As the other side has them.
        image_shape: Channels, height, width.
        steps: Of each kind in a piece; a turn is as many pieces as fill it.
    """

    model: str
    cut: str
    image_shape: tuple[int, int, int]
    steps: int = 50

    def run(self, turns: Turns) -> None:
        """Invert until nobody waits for it any more."""
        factory = registry.load_model(registry.reference("model", self.model))
        client, clone = (
            split(network(factory, self.image_shape, 10, Rng("speed", side)), self.cut).head.eval()
            for side in ("client", "clone")
        )
        with torch.no_grad():
            smashed = client(Rng("speed", "image").uniform((1, *self.image_shape)))
        loop = PlainLoop(clone, smashed, self.image_shape)
        turns.ready()
        while True:
            loop.round(self.steps)
            turns.did(2 * self.steps)
