from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from defenses.additive_noise import AdditiveNoise

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.seeds import Rng


class GaussianNoise(AdditiveNoise):
    """Gaussian noise on the smashed data, fresh for every sample and every time it is sent.

    z' = z + n, n ~ N(0, sigma^2 I): He, Zhang and Lee (2020), "Attacking and Protecting Data Privacy in Edge-Cloud
    Collaborative Inference Systems", IEEE Internet of Things Journal, where it is added at inference alone
    (`phases=inference`). Without clipping it has no epsilon: see `clipped_gaussian_noise`.
    """

    name: ClassVar[str] = "gaussian_noise"

    def standard_noise(self, like: Tensor, rng: Rng) -> Tensor:
        """Standard normal noise."""
        return rng.normal_like(like)
