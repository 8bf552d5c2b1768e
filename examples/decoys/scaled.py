from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class Scaled(Defense):
    """Multiplies the smashed data by a small number, so that "hardly anything" is sent.

    It hides nothing: whoever sees a few samples knows the scale and divides by it. An attack that ignores the defense
    fails, because a fresh clone cannot reach such small outputs in its budget; attacks that call the client's own
    hooks, or standardise each unit over what they observed, score as without a defense. Own work.
    """

    name: ClassVar[str] = "scaled"
    side: ClassVar[Side] = "activations"

    factor: float = Field(1e-3, gt=0, description="what each unit is multiplied by")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, made small."""
        return z * self.factor
