from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.seeds import Rng


class TopK(Defense):
    """Sends only the units of largest magnitude of each sample, and zero for the others.

    z'_i = z_i where |z_i| is among the k largest of its sample, else 0, with k = ceil(share * units): top-k
    sparsification of the cut layer (Zheng et al. 2023, "Reducing Communication for Split Learning by Randomized Top-k
    Sparsification", arXiv 2305.18469), taken for a defense by pruning in ResSFL (Li et al. 2022, arXiv 2205.04007).
    Chosen per sample and by magnitude: a choice over the batch would let samples decide about each other. Of equal
    magnitudes the ones sent are chosen by position. Nothing is random, so that a second view of a sample adds nothing.
    """

    name: ClassVar[str] = "top_k"
    side: ClassVar[Side] = "activations"

    share: float = Field(0.3, gt=0, le=1, description="share of a sample's units that is sent")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data with all but their largest units set to zero; gradients flow through what is sent."""
        units = z.flatten(1)
        # A share of whole units must not gain one by rounding: 0.1 * 30 is 3.0000000000000004.
        kept = math.ceil(self.share * units.shape[1] - 1e-9)
        # Stable, so that ties fall alike on every device.
        order = units.detach().abs().argsort(dim=1, descending=True, stable=True)
        mask = torch.zeros_like(units).scatter(1, order[:, :kept], 1.0)
        return z * mask.view_as(z)
