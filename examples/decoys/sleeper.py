from __future__ import annotations

import time
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class Sleeper(Defense):
    """Computes for a while, as strong cryptography would, and sends the smashed data as they are.

    It hides nothing and costs time. Every outcome is to the last bit that of an undefended client, which the label
    `inactive` says; the column `cost_time` shows what was paid for it. Own work.
    """

    name: ClassVar[str] = "sleeper"
    side: ClassVar[Side] = "activations"

    milliseconds: float = Field(2.0, ge=0, le=10, description="how long each call takes")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, later."""
        time.sleep(self.milliseconds / 1000)
        return z
