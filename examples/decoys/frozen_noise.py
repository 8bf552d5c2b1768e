from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split


class FrozenNoise(Defense):
    """Adds strong noise to the smashed data, drawn once for the client and never again.

    It hides nothing: noise that never changes is a constant, one known sample gives it away, and the mean over a few
    samples nearly does. Attacks that call the client's own hooks, or standardise each unit over what they observed,
    score as without a defense. Own work.
    """

    name: ClassVar[str] = "frozen_noise"
    side: ClassVar[Side] = "activations"

    relative: float = Field(2.0, ge=0, description="standard deviation of the noise over the RMS of the smashed data")

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Draw the noise, scaled by what the untrained head makes of the first images; the split stays as it is."""
        with torch.no_grad():
            z = split.head(data.images[:256])
        self.state["noise"] = self.relative * z.square().mean().sqrt() * rng.normal_like(z[0])
        return split

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data plus the one draw."""
        return z + self.state["noise"]
