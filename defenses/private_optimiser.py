"""Opacus' optimiser with noise from a named stream; a file of its own because importing Opacus takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opacus.optimizers import DPOptimizer

if TYPE_CHECKING:
    import torch

    from benchmark.seeds import Rng


# Opacus ships no types.
class PrivateOptimiser(DPOptimizer):  # type: ignore[misc]
    """`DPOptimizer` whose noise is drawn on the CPU, so that a run does not depend on its device.

    A step clips every sample's gradient to `max_grad_norm` over all parameters (flat), sums, adds noise of standard
    deviation `noise_multiplier * max_grad_norm`, divides by the expected batch size and lets the wrapped optimiser step
    (Abadi et al., 2016, arXiv 1607.00133, algorithm 1).

    Args:
        optimiser: The wrapped optimiser.
        rng: Stream of the noise.
        noise_multiplier, max_grad_norm: As above.
        expected_batch_size: As above; not the drawn batch's size, which is private.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        rng: Rng,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: int,
    ) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._rng = rng

    def add_noise(self) -> None:
        """Turn the summed clipped gradients into noised ones."""
        for parameter in self.params:
            noise = self._rng.normal_like(parameter) * (self.noise_multiplier * self.max_grad_norm)
            parameter.grad = (parameter.summed_grad + noise).view_as(parameter)
