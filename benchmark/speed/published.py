"""The published loop, imported from a checkout of its code and timed as it is.

Erdogan, Kupcu and Cicek, "UnSplit", WPES 2022; https://github.com/ege-erdogan/unsplit. Nothing of it is kept here.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.errors import UserError
from benchmark.speed.processes import Turns

FILES = ("unsplit/attacks.py", "unsplit/models.py")
_CLASSES = {"mnist_net": "MnistNet", "cifar_net": "CifarNet"}


def check_reference(path: Path) -> None:
    """See that a folder is a checkout of the published code.

    Raises:
        UserError: A file of it is missing.
    """
    for name in FILES:
        if not (path / name).is_file():
            raise UserError(
                f"--reference {path}: holds no {name}; give the folder of a checkout of the published code "
                "(git clone https://github.com/ege-erdogan/unsplit), or leave the option out"
            )


@dataclass(frozen=True)
class PublishedTurns:
    """The published inversion of one image after the other.

    Attributes:
        path: Folder of the checkout.
        model, cut: As the other side has them.
        image_shape: Channels, height, width.
        steps: Of each kind in a piece; a turn is as many pieces as fill it.
    """

    path: str
    model: str
    cut: str
    image_shape: tuple[int, int, int]
    steps: int = 50

    def run(self, turns: Turns) -> None:
        """Invert an image of random pixels; a target carries no graph, which saves the loop work."""
        sys.path.insert(0, self.path)
        try:
            models = importlib.import_module("unsplit.models")
            invert = importlib.import_module("unsplit.attacks").model_inversion_stealing
            client, clone = (getattr(models, _CLASSES[self.model])() for _ in range(2))
        except (ImportError, AttributeError) as error:
            raise UserError(f"--reference {self.path}: cannot be used ({error}); install what it imports") from None
        end = list(client.layers).index(self.cut)
        size = torch.Size((1, *self.image_shape))
        smashed = client(torch.rand(size, device="cpu"), end=end).detach()
        turns.ready()
        while True:
            invert(clone, end, smashed, size, main_iters=1, input_iters=self.steps, model_iters=self.steps)
            turns.did(2 * self.steps)
