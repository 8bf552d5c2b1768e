from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from defenses.additive_noise import AdditiveNoise

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.seeds import Rng


class LaplaceNoise(AdditiveNoise):
    """Laplace noise on the smashed data, fresh for every sample and every time it is sent.

    z' = z + n, n ~ Laplace(0, b) in every unit, in training and inference: Titcombe et al. (2021, arXiv 2104.05743).
    Parameters give the standard deviation, so that rows compare with `gaussian_noise`; the scale is
    b = sigma / sqrt(2). Without L1 clipping it has no epsilon.
    """

    name: ClassVar[str] = "laplace_noise"

    def standard_noise(self, like: Tensor, rng: Rng) -> Tensor:
        """Laplace noise of scale 1/sqrt(2), whose variance is 2 b^2 = 1."""
        return rng.laplace_like(like) / math.sqrt(2)
