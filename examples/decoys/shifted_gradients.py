from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Side


class ShiftedGradients(Defense):
    """Adds one constant vector to every row of the cut gradient, so that all rows point the same way.

    It hides nothing: the mean row is the constant. An attack that compares directions as they come finds all rows
    alike; one that subtracts the mean row first infers labels as without a defense. Own work.
    """

    name: ClassVar[str] = "shifted_gradients"
    side: ClassVar[Side] = "labels"

    size: float = Field(1e-5, ge=0, description="standard deviation of the constant vector's entries")
    key: int = Field(2026, ge=0, description="the secret that the vector is drawn from")

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """The rows, all moved by the same vector."""
        return g + self.size * Rng("shift", self.key).normal_like(g[:1])
