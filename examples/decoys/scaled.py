from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split


class Scaled(Defense):
    """Multiplies the smashed data by a small number, so that "hardly anything" is sent; the server multiplies back.

    It hides nothing: whoever sees a few samples knows the scale and divides by it. An attack that ignores the defense
    fails, because a fresh clone cannot reach such small outputs in its budget; attacks that call the client's own
    hooks, or standardise each unit over what they observed, score as without a defense. Own work.
    """

    name: ClassVar[str] = "scaled"
    side: ClassVar[Side] = "activations"

    factor: float = Field(1e-3, gt=0, description="what each unit is multiplied by")

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Start the server's first weights larger by as much, so that the network learns as before."""
        weights = [parameter for parameter in split.body.parameters() if parameter.dim() > 1]
        with torch.no_grad():
            for first in weights[:1]:
                first.div_(self.factor)
        return split

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, made small."""
        return z * self.factor
