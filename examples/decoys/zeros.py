from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class Zeros(Defense):
    """Sends nothing but zeros in use: perfectly private.

    And perfectly useless: a defense is a trade, and this one has sold everything. Its leakage of 0 at inference is
    true; the network predicts its commonest class, which is flagged `utility_at_majority` and leaves the row
    unranked. Own work.
    """

    name: ClassVar[str] = "zeros"
    side: ClassVar[Side] = "activations"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data in training, zeros in use."""
        return z if phase == "training" else z * 0
