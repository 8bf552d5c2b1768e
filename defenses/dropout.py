from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.seeds import Rng


class Dropout(Defense):
    """Sets each unit of the smashed data to zero with probability `rate`; the others are not rescaled.

    z' = z m, m ~ Bernoulli(1 - rate) for every unit, fresh for every sample and every time it is sent: He, Zhang and
    Lee (2020), "Attacking and Protecting Data Privacy in Edge-Cloud Collaborative Inference Systems", IEEE Internet of
    Things Journal, eq. 6. They drop at inference alone; here also in training, so that the network learns to live
    with it. Who sees a sample k times misses a unit with probability rate^k only.
    """

    name: ClassVar[str] = "dropout"
    side: ClassVar[Side] = "activations"

    rate: float = Field(0.6, ge=0, lt=1, description="share of the units that is dropped")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data with dropped units."""
        return z * (rng.uniform_like(z) >= self.rate)
