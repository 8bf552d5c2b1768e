from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class RepeatedNoise(Defense):
    """Adds strong noise to the smashed data, from a generator that is seeded anew in every call.

    A common mistake, made for reproducible results. The noise differs from row to row of a batch, so that it looks
    fresh, but each call repeats it: who sends one known image in a target's place subtracts the noise and has the
    target's smashed data. Seen by asking twice: `reused_noise`. Own work.
    """

    name: ClassVar[str] = "repeated_noise"
    side: ClassVar[Side] = "activations"

    relative: float = Field(2.0, ge=0, description="standard deviation of the noise over the RMS of each sample")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data plus the same noise in every call."""
        rms = z.detach().flatten(1).square().mean(dim=1).sqrt().view(-1, *[1] * (z.dim() - 1))
        return z + self.relative * rms * Rng("always the same").normal_like(z)
