"""What a defense does to labels and to cut gradients, learned by calling its hooks as often as one likes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.metrics.labels import directions

if TYPE_CHECKING:
    from benchmark.protection import Protection
    from benchmark.seeds import Rng

_LABELS_A_DRAW, _LABEL_DRAWS = 200, 20
_GRADIENT_DRAWS = 10
# A row is turned round more often than noise explains where the shares differ by this.
_TURNED = 0.05
_ALIGNED = 0.1


@dataclass(frozen=True)
class Turning:
    """What a defense does to a gradient's direction.

    Attributes:
        line_only: Whether it turns gradients round more often than noise would, so that only their line is theirs.
        along: Mean cosine between a gradient and what is sent for it, in [-1, 1]; about 0 where coordinates are
            exchanged.
    """

    line_only: bool
    along: float

    @property
    def aligned(self) -> bool:
        """Whether gradients still stand in the coordinates of the body's output, and which way they point."""
        return not self.line_only and abs(self.along) > _ALIGNED


def flip_rates(protection: Protection, n_classes: int, rng: Rng, device: torch.device) -> Tensor:
    """How often a label is trained as another: [true, trained], rows sum to 1, float64.

    Args:
        protection: The attacker's own copy; every call draws anew.
        n_classes: Number of labels.
        rng: Orders the labels that are tried.
        device: Where they are made.
    """
    true = torch.arange(n_classes, device=device).repeat(_LABELS_A_DRAW)
    counts = torch.zeros(n_classes, n_classes, dtype=torch.float64, device=device)
    for _ in range(_LABEL_DRAWS):
        true = true[rng.permutation(len(true), device)]
        trained = protection.labels(true, n_classes)
        counts.index_put_((true, trained), torch.ones_like(true, dtype=torch.float64), accumulate=True)
    return counts / counts.sum(dim=1, keepdim=True)


def turning(protection: Protection, gradients: Tensor, labels: Tensor) -> Turning:
    """What becomes of gradients that the defense is given, over draws.

    Args:
        protection: The attacker's own copy; every call draws anew.
        gradients: [k, m, ...], k batches of m rows; what was observed of known samples will do, although a defense has
            changed it already: of its own it changes it once more.
        labels: [m], int64, of the rows.
    """
    sent = torch.cat([protection.gradients(batch, labels)[None] for batch in gradients for _ in range(_GRADIENT_DRAWS)])
    given = gradients.repeat_interleave(_GRADIENT_DRAWS, dim=0)
    cosines = (directions(given) * directions(sent)).sum(dim=2)
    heard = cosines[(given != 0).flatten(2).any(dim=2) & (sent != 0).flatten(2).any(dim=2)]
    if not len(heard):
        return Turning(line_only=False, along=0.0)
    turned = float((heard < 0).double().mean())
    return Turning(
        line_only=min(turned, 1 - turned) > _by_noise(heard, given[0, 0].numel()) + _TURNED,
        along=float(heard.mean()),
    )


def _by_noise(cosines: Tensor, d: int) -> float:
    # Isotropic noise moves a cosine by a normal number of standard deviation 1 / sqrt(d).
    distance = float(cosines.abs().mean()) * math.sqrt(d)
    return 0.5 * math.erfc(distance / math.sqrt(2))
