from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class NotANumber(Defense):
    """Sends NaN in use: no attack's score survives it, and a table that leaves such scores out shows none.

    It breaks the contract, which asks for finite numbers. Every cell that meets it fails with that sentence, and a row
    that lacks a cell shows gaps, never a number, and has no rank: `incomplete`. Own work.
    """

    name: ClassVar[str] = "not_a_number"
    side: ClassVar[Side] = "activations"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data in training, NaN in use."""
        return z if phase == "training" else torch.full_like(z, torch.nan)
