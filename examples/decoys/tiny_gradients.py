from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Side


class TinyGradients(Defense):
    """Sends cut gradients a millionth of their size, so that "no label can be read from them".

    It hides nothing: a gradient's direction tells the label, and a fixed scale leaves directions as they are. Attacks
    that compare directions, or divide by the size they observe, infer labels as without a defense. Own work.
    """

    name: ClassVar[str] = "tiny_gradients"
    side: ClassVar[Side] = "labels"

    factor: float = Field(1e-6, gt=0, description="what each row of the cut gradient is multiplied by")

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """The rows, made small."""
        return g * self.factor
