from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class SignFlipped(Defense):
    """Turns the sign of every other unit or so, by a secret mask that is the same for every sample.

    It hides nothing: the mask is one bit a unit and never changes. An attack that ignores the defense fails, because
    the clone's last activation cannot be negative; attacks that call the client's own hooks, or learn each unit's
    gain from what they observed, score as without a defense. Own work.
    """

    name: ClassVar[str] = "sign_flipped"
    side: ClassVar[Side] = "activations"

    key: int = Field(2026, ge=0, description="the secret that the mask is drawn from")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data under the mask."""
        # Not from the stream handed in, which goes on: the key fixes the mask for good.
        signs = Rng("signs", self.key).integers(2, z.shape[1:], z.device) * 2 - 1
        return z * signs.to(z.dtype)
