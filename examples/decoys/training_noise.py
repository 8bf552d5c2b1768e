from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class TrainingNoise(Defense):
    """Adds strong noise to the smashed data while the network trains, and none afterwards.

    It hides nothing where it counts: every image classified in use is sent as it is. A benchmark that looks at
    training alone is fooled; here each row answers for its worst phase, and attacks on held-out images find no
    noise. Own work.
    """

    name: ClassVar[str] = "training_noise"
    side: ClassVar[Side] = "activations"

    relative: float = Field(2.0, ge=0, description="standard deviation of the noise over the RMS of each sample")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, in training plus noise."""
        if phase != "training":
            return z
        rms = z.detach().flatten(1).square().mean(dim=1).sqrt().view(-1, *[1] * (z.dim() - 1))
        return z + self.relative * rms * rng.normal_like(z)
