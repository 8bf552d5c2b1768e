"""What a defense does to labels and to cut gradients, learned by calling its hooks as often as one likes."""

from __future__ import annotations

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
# Share of what draws keep of a gradient's line that has to be missing from what they keep of its direction.
_TURNED = 0.25
_ALIGNED = 0.1
# How much of another gradient is added to one that a defense is asked about.
_STIRRED = 0.02


@dataclass(frozen=True)
class Turning:
    """What a defense does to a gradient's direction.

    Attributes:
        line_only: Whether it turns gradients round at random, so that only their line is left; noise does not.
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

    What looks random in training need not be drawn: a key may be looked up by a gradient's numbers or its place in the
    batch. So no two draws ask about quite the same gradient in the same place.

    Args:
        protection: The attacker's own copy; every call draws anew.
        gradients: [k, m, ...], k batches of m rows; what was observed of known samples will do, although a defense has
            changed it already: of its own it changes it once more.
        labels: [m], int64, of the rows.
    """
    cosines = torch.stack([_cosines(protection, gradients, labels, draw) for draw in range(_GRADIENT_DRAWS)])
    heard = cosines[:, (gradients != 0).flatten(2).any(dim=2)]
    if not heard.numel():
        return Turning(line_only=False, along=0.0)
    n, d = len(heard), gradients[0, 0].numel()
    # Without bias: products of different draws alone, and squares less what noise in d dimensions gives by itself.
    signed = float(((heard.sum(dim=0).square() - heard.square().sum(dim=0)) / (n * (n - 1))).mean())
    line = float(heard.square().mean()) - 1 / d
    return Turning(line_only=line - signed > _TURNED * line + 1 / d, along=float(heard.mean()))


def _cosines(protection: Protection, gradients: Tensor, labels: Tensor, draw: int) -> Tensor:
    """Of each row of [k, m, ...], a little stirred, with what is sent for it, [k, m], float64."""
    flat = gradients.flatten(2).double()
    others = directions(flat.roll(draw, dims=1)) * torch.linalg.vector_norm(flat, dim=2, keepdim=True)
    asked = (flat + _STIRRED * others).to(gradients).view_as(gradients).roll(draw, dims=1)
    sent = torch.stack([protection.gradients(batch, labels.roll(draw)) for batch in asked])
    return (directions(asked) * directions(sent)).sum(dim=2).roll(-draw, dims=1)
