from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from defenses.base import Defense, Side

if TYPE_CHECKING:
    from benchmark.seeds import Rng


class MaxNorm(Defense):
    """Scales each row of the cut gradient at random so that all rows have the norm of the largest in expectation.

    g_j (1 + sigma_j xi_j) with one normal number xi_j a row and sigma_j^2 = max ||g||^2 / ||g_j||^2 - 1: Li et al.
    (2021, arXiv 2102.08504). Built against attacks on the norm; each row keeps its line, if not its sign. It acts where
    the client owns the labels, in the u-shaped topology.
    """

    name: ClassVar[str] = "max_norm"
    side: ClassVar[Side] = "labels"
    couples_samples: ClassVar[bool] = True

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Rows of expected squared norm max ||g||^2; rows of zeros stay zero."""
        norms: Tensor = torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.float64)
        # ||g_j|| sigma_j along the row's direction: finite also where g_j is so small that sigma_j is not.
        missing = (norms.max().square() - norms.square()).clamp(min=0).sqrt()
        stretch = missing * rng.normal(norms.shape, g.device) / torch.where(norms > 0, norms, 1.0)
        wide = (len(g), *[1] * (g.dim() - 1))
        return (g.double() * (1 + stretch.reshape(wide))).to(g.dtype)
