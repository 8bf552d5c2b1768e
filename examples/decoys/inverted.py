from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class Inverted(Defense):
    """Feeds the head with the image's negative, so that what is reconstructed is "not the image".

    It hides nothing: anyone can read a negative. By raw pixels the reconstruction is as wrong as can be; every score
    here is taken after a least-squares gain and offset that may be negative, so that the negative counts as the image.
    Own work.
    """

    name: ClassVar[str] = "inverted"
    side: ClassVar[Side] = "activations"

    def protect_inputs(self, x: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """Black for white."""
        return 1 - x
