from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class SixteenBits(Defense):
    """Sends each unit as a whole number of 16 bits, because "quantised data cannot be inverted".

    It hides nothing: the steps are far finer than what any attack can see. What does not differentiate (rounding) stops
    only attackers who never heard of straight-through gradients; the leakage stays that of an undefended client.
    Own work.
    """

    name: ClassVar[str] = "sixteen_bits"
    side: ClassVar[Side] = "activations"

    largest: float = Field(32.0, gt=0, description="the range is [-largest, largest)")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data in steps of a 32 768th of the range."""
        step = self.largest / 2**15
        rounded = (z / step).round().clamp(-(2**15), 2**15 - 1) * step
        # The gradient goes straight through in training. In use nobody is owed one.
        return z + (rounded - z).detach() if phase == "training" else rounded
