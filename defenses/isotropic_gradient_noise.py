from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from defenses.base import Defense, Side

if TYPE_CHECKING:
    from benchmark.seeds import Rng


class IsotropicGradientNoise(Defense):
    """Adds Gaussian noise to each row of the cut gradient, of c times the largest row's squared norm.

    g_j + N(0, c max ||g||^2 / d I) for rows of d numbers: the isotropic baseline of Li et al. (2021, arXiv 2102.08504),
    with c = 25 the strong one. The noise follows the batch and rows are not clipped, so no epsilon can be stated. It
    acts where the client owns the labels, in the u-shaped topology.
    """

    name: ClassVar[str] = "isotropic_gradient_noise"
    side: ClassVar[Side] = "labels"
    couples_samples: ClassVar[bool] = True

    c: float = Field(25.0, ge=0, description="expected squared norm of the noise over that of the batch's largest row")

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """The rows under noise; every row's has the same distribution."""
        rows = g.flatten(1)
        largest: Tensor = torch.linalg.vector_norm(rows, dim=1).max()
        return g + rng.normal_like(g) * largest * math.sqrt(self.c / rows.shape[1])
