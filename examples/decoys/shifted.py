from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class Shifted(Defense):
    """Adds a constant to every unit of the smashed data, so that they look nothing like a head's output.

    It hides nothing: the mean over a few samples gives the constant away. An attack that ignores the defense spends
    its budget on explaining the constant; attacks that call the client's own hooks, or standardise each unit over what
    they observed, score as without a defense. Own work.
    """

    name: ClassVar[str] = "shifted"
    side: ClassVar[Side] = "activations"

    constant: float = Field(3.0, description="what is added to each unit")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, moved."""
        return z + self.constant
