from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class InferenceNoise(Defense):
    """Adds strong noise to the smashed data in use, and none while the network trains.

    It hides nothing where the data are: the server has seen every training image in the clear, once an epoch. A
    benchmark that looks at inference alone is fooled; here each row answers for its worst phase, and attacks on what
    the server saw of training images find no noise. Own work.
    """

    name: ClassVar[str] = "inference_noise"
    side: ClassVar[Side] = "activations"

    relative: float = Field(2.0, ge=0, description="standard deviation of the noise over the RMS of each sample")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, in inference plus noise."""
        if phase != "inference":
            return z
        rms = z.detach().flatten(1).square().mean(dim=1).sqrt().view(-1, *[1] * (z.dim() - 1))
        return z + self.relative * rms * rng.normal_like(z)
