"""How long to optimise images and weights, and what."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.lane_layers import Precision


@dataclass(frozen=True)
class Schedule:
    """How long to optimise, and what.

    Attributes:
        rounds: Alternations, at least 1.
        input_steps: Steps on the images in each round.
        model_steps: Steps on the weights in each round; 0 leaves them as they are.
        input_lr: Learning rate on the images.
        model_lr: Learning rate on the weights.
        tv: Weight of the squared total variation.
        l2: Weight of the mean squared pixel.
        checkpoints: How many images of each target are kept, at equally spaced ends of rounds, the last included.
        precision: What convolutions' products are computed in; see `Lanes`.
        ends_at_rest: Whether a lane ends once its loss is at rest; see `attacks.inversion.leaving`.
        halved_after: Rounds after which the half of each group of rivals with the higher losses is left behind, or
            None.
        rivals: Lanes of a group, which stand together.
    """

    rounds: int
    input_steps: int
    model_steps: int
    input_lr: float
    model_lr: float
    tv: float
    l2: float
    checkpoints: int
    precision: Precision = "float32"
    ends_at_rest: bool = False
    halved_after: int | None = None
    rivals: int = 1

    @property
    def steps(self) -> int:
        """Gradient steps in all, where no lane leaves before the end."""
        return self.rounds * (self.input_steps + self.model_steps)

    def kept_rounds(self) -> list[int]:
        """The rounds, counted from 1, at whose ends images are kept; ascending, the last one always among them."""
        return sorted({max(1, round(self.rounds * i / self.checkpoints)) for i in range(1, self.checkpoints + 1)})

    def kept_steps(self) -> list[int]:
        """The same, in gradient steps."""
        return [kept * (self.input_steps + self.model_steps) for kept in self.kept_rounds()]
