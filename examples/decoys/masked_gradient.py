from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class MaskedGradient(Defense):
    """Rounds to two decimals and stops the gradient, so that attacks which differentiate through it find none.

    It hides nothing: what is sent is the smashed data to within half a hundredth, and only the attacker's own copy of
    the defense is broken. Such defenses look strong until attacked without their gradient (Athalye, Carlini and Wagner
    2018, arXiv 1802.00420). Here attackers put a straight-through gradient in its place, and a gradient of zero through
    what is sent is a flag of its own.
    """

    name: ClassVar[str] = "masked_gradient"
    side: ClassVar[Side] = "activations"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, rounded; in use with a gradient that is there, but zero."""
        rounded = z.round(decimals=2).detach()
        # In training the head has to learn, so that the gradient goes straight through.
        return z + (rounded - z).detach() if phase == "training" else rounded + 0 * z
