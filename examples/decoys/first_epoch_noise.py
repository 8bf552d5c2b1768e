from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PrivateAttr
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Side

if TYPE_CHECKING:
    from benchmark.protocol import Training


class FirstEpochNoise(Defense):
    """Adds strong noise to cut gradients in the first epoch, when attacks are said to work best.

    It hides nothing: every record comes back the next epoch, with the same label and no noise. A benchmark that looks
    at the first gradients alone is fooled; attacks here read what the server was sent in all epochs, and take for
    each record what tells most. Own work.
    """

    name: ClassVar[str] = "first_epoch_noise"
    side: ClassVar[Side] = "labels"

    relative: float = Field(10.0, ge=0, description="expected norm of the noise over that of each row")

    _training: Training | None = PrivateAttr(None)
    _steps: int = PrivateAttr(0)

    def privatise(self, training: Training) -> Training:
        """Remember how long an epoch is; the training stays as it is."""
        self._training = training
        return training

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """The rows, in the first epoch plus noise."""
        self._steps += 1
        if self._training is not None and self._steps > self._training.steps_per_epoch:
            return g
        rows = g.flatten(1)
        size = rows.norm(dim=1, keepdim=True) * self.relative / rows.shape[1] ** 0.5
        return g + (size * rng.normal_like(rows)).view_as(g)
