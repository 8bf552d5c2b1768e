from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, PrivacyStatement, Side


class LooseClip(Defense):
    """Clips each sample's smashed data far above every norm, adds a whiff of noise and claims a small epsilon.

    It hides nothing: a bound that nothing reaches bounds nothing, and with it the noise would have to be a million
    times as strong. The claim has everything a claim needs but the truth; whoever tells two images apart by what is
    sent more surely than epsilon allows has refuted it, and the leakage stays that of an undefended client. Own work.
    """

    name: ClassVar[str] = "loose_clip"
    side: ClassVar[Side] = "activations"

    clip: float = Field(1e4, gt=0, description="clip of a sample's smashed data, L2")
    sigma: float = Field(0.01, ge=0, description="standard deviation of the noise, in units of the smashed data")
    epsilon: float = Field(1.0, ge=0, description="what is claimed")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data plus a little noise."""
        norms = z.flatten(1).norm(dim=1).view(-1, *[1] * (z.dim() - 1))
        return z * (self.clip / norms.clamp(min=self.clip)) + self.sigma * rng.normal_like(z)

    def privacy(self) -> Sequence[PrivacyStatement]:
        """The claim; no accountant was asked."""
        return (
            PrivacyStatement(
                view="activations",
                epsilon=self.epsilon,
                delta=1e-5,
                unit="one release of one record's activations",
                adjacency="replace-one",
                accountant="analytic gaussian",
            ),
        )
