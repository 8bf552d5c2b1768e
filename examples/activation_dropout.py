"""A defense of your own: drop random units of the smashed data. Used by the README."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase


class ActivationDropout(Defense):
    """Sets each unit of the smashed data to zero with probability `rate`, without rescaling the others.

    He, Zhang and Lee (2020), "Attacking and Protecting Data Privacy in Edge-Cloud Collaborative Inference
    Systems", eq. 6;
    there at inference only, here in training too, so that the network learns to live with it.
    """

    name = "activation_dropout"
    version = 1
    side = "activations"

    rate: float = Field(0.6, ge=0, lt=1, description="share of the units that is dropped")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """`z` with dropped units; a fresh mask a sample and call."""
        return z * (rng.uniform_like(z) >= self.rate)
