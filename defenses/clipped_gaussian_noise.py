from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from benchmark.accounting import gaussian_epsilon
from defenses import running_rms
from defenses.base import Defense, Phase, PrivacyStatement, Side

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split
    from benchmark.protocol import Training
    from benchmark.seeds import Rng


class ClippedGaussianNoise(Defense):
    """Clips each sample's smashed data and adds Gaussian noise: local differential privacy against the server.

    z' = z min(1, C / ||z||_2) + N(0, sigma^2 I), the norm over all units of one sample. Replacing the sample moves the
    clipped vector by at most 2C, so each release is the Gaussian mechanism of sensitivity 2C, accounted for exactly
    (Balle and Wang, 2018, arXiv 1805.06530, theorem 8); k releases of a sample count as one of noise sigma / sqrt(k).

    A training sample is released once an epoch (where batches are drawn by Poisson sampling, at worst in every batch),
    and any sample `queries` times at inference. The claim is for one sample's own activations. What a training record
    reveals through the activations of others, by way of the head it helped to train, is not covered.
    """

    name: ClassVar[str] = "clipped_gaussian_noise"
    side: ClassVar[Side] = "activations"

    clip: float = Field(10.0, gt=0, description="clip C of a sample's smashed data, L2")
    sigma: float = Field(1.0, ge=0, description="standard deviation of the noise, in units of the smashed data")
    delta: float = Field(1e-5, gt=0, lt=1, description="failure probability; below 1 over the number of records")
    queries: int = Field(1, ge=0, description="how often a sample is sent at inference, for the claim")

    _training: Training | None = PrivateAttr(None)

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Measure the untrained head's RMS after the clip; the split stays as it is."""
        running_rms.start(self.state, split, data, self._clipped)
        self.state["records"] = torch.tensor(len(data.images), device="cpu")
        self.state["training_releases"] = torch.tensor(0, device="cpu")
        return split

    def privatise(self, training: Training) -> Training:
        """Remember the training, to know how often it releases a record; it stays as it is."""
        self._training = training
        return training

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The clipped smashed data plus noise."""
        clipped = self._clipped(z)
        # A defense restored with its victim has no training: an attack that replays it must not move what is stated.
        if phase == "training" and self._training is not None:
            running_rms.follow(self.state, clipped)
            # Only now is it certain how batches are drawn: a defense further down the list may have changed it.
            releases = self._training.epochs
            if self._training.sampling == "poisson":
                releases *= self._training.steps_per_epoch
            self.state["training_releases"] = torch.tensor(releases, device="cpu")
        return clipped + self.sigma * rng.normal_like(clipped)

    @property
    def reached(self) -> dict[str, float]:
        """`noise_to_rms`: sigma over the running RMS of the clipped data; nothing before the RMS was measured."""
        rms = float(running_rms.rms(self.state, self.name)) if running_rms.KEY in self.state else 0.0
        return {"noise_to_rms": self.sigma / rms} if rms > 0 else {}

    def privacy(self) -> Sequence[PrivacyStatement]:
        """One claim, for the activations; nothing before `prepare`."""
        if "records" not in self.state:
            return ()
        records = int(self.state["records"])
        releases = int(self.state["training_releases"]) + self.queries
        why = None
        if self.delta * records >= 1:
            why = (
                f"delta={self.delta} is not below 1/{records}, one over the number of records: sending a record in the "
                "clear at random would satisfy it"
            )
        return (
            PrivacyStatement(
                view="activations",
                epsilon=gaussian_epsilon(self.sigma, 2 * self.clip, self.delta, releases) if why is None else None,
                delta=self.delta,
                unit="one record's own activations",
                adjacency="replace-one",
                accountant="analytic gaussian",
                releases=releases,
                why_invalid=why,
            ),
        )

    def _clipped(self, z: Tensor) -> Tensor:
        norms = z.flatten(1).norm(dim=1).reshape(-1, *[1] * (z.dim() - 1))
        # min(1, C / norm), written so that its gradient is finite where a sample's activations are all zero.
        clipped: Tensor = z * (self.clip / norms.clamp(min=self.clip))
        return clipped
