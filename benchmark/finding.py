"""What an attack is given to work with, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Budget:
    """What an attack may use; it must not change an outcome beyond rounding.

    Attributes:
        memory: Bytes the attack's tensors may take at once; lanes are chunked to it.
    """

    memory: int = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """What an attack found out about one view.

    Attributes:
        reconstructions: [checkpoints, n, channels, height, width], any range; the harness scores the
            checkpoint that is worst
            for the defense. One checkpoint is fine. None where the attack does not reconstruct.
        labels: [n], int64, or None.
        clone: The cloned head, or None.
        trace: Series of equal length where the attack optimises: `step`, and `loss` (mean feature loss, without
            regularisers, over the targets) or, where something is trained beforehand, `training_loss`.
        steps: Gradient steps spent on one target.
        saved_steps: Gradient steps of its budget that the attack found it could do without, on average over restarts.
        checkpoints: The step each checkpoint was taken at.
    """

    reconstructions: Tensor | None = None
    labels: Tensor | None = None
    clone: nn.Module | None = None
    trace: Mapping[str, Sequence[float]] = field(default_factory=dict)
    steps: int = 0
    saved_steps: int = 0
    checkpoints: Sequence[int] = ()
