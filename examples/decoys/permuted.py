from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class Permuted(Defense):
    """Sends the channels of the smashed data in a secret order, the same for every sample.

    It hides nothing: no attack knows which channel is which in the first place, and a clone learns whatever order it
    meets. The leakage stays that of an undefended client. Own work.
    """

    name: ClassVar[str] = "permuted"
    side: ClassVar[Side] = "activations"

    key: int = Field(2026, ge=0, description="the secret that the order is drawn from")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data with their channels (flat ones: units) in another order."""
        # Not from the stream handed in, which goes on: the key fixes the order for good.
        return z[:, Rng("permuted", self.key).permutation(z.shape[1], z.device)]
