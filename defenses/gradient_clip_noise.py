from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from benchmark.accounting import gaussian_epsilon
from defenses.base import Defense, PrivacyStatement, Side

if TYPE_CHECKING:
    from benchmark.protocol import Training
    from benchmark.seeds import Rng


class GradientClipNoise(Defense):
    """Clips each row of the cut gradient to norm C and adds N(0, (sigma C)^2 I): DP-SGD's step, on what is sent back.

    Clipping and noise after Abadi et al. (2016, arXiv 1607.00133), algorithm 1, a row at a time and without averaging;
    epsilon from the analytic Gaussian mechanism (Balle and Wang, 2018, arXiv 1805.06530) at sensitivity 2C. The server
    knows which row is whose, so sampling amplifies nothing, and a record's rows compose over the epochs. What is
    bounded is what a record's own rows tell; the tail learns from every label without noise, and what it thereby shows
    in other records' rows is not covered. It acts where the client owns the labels, in the u-shaped topology.
    """

    name: ClassVar[str] = "gradient_clip_noise"
    side: ClassVar[Side] = "labels"

    clip_norm: float = Field(
        0.008,
        gt=0,
        description="C, in the scale of the rows, which are 1 / batch size of a sample's own gradient; the default is "
        "the median norm when training starts, of mnist_net behind a one-layer tail in batches of 64",
    )
    sigma: float = Field(1.0, ge=0, description="standard deviation of the noise over C")
    delta: float = Field(1e-5, gt=0, lt=1, description="failure probability of the stated epsilon")

    _training: Training | None = PrivateAttr(default=None)

    def privatise(self, training: Training) -> Training:
        """Note how often a record will be sent; training itself is left as it is."""
        self._training = training
        return training

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Rows of norm at most C, under noise."""
        self._note_releases()
        norms: Tensor = torch.linalg.vector_norm(g.flatten(1), dim=1)
        factors: Tensor = (self.clip_norm / norms).clamp(max=1).reshape(-1, *[1] * (g.dim() - 1))
        return g * factors + rng.normal_like(g) * (self.sigma * self.clip_norm)

    def privacy(self) -> Sequence[PrivacyStatement]:
        """Epsilon of one record's own rows over the whole training; nothing where none was sent or without noise."""
        releases = int(self.state.get("releases", 0))
        if self.sigma == 0 or releases == 0:
            return ()
        records = int(self.state["records"])
        too_large = self.delta * records >= 1
        return (
            PrivacyStatement(
                view="labels",
                epsilon=None if too_large else gaussian_epsilon(self.sigma, 2.0, self.delta, releases),
                why_invalid=f"delta={self.delta} is not below 1/{records}, one over the number of records"
                if too_large
                else None,
                delta=self.delta,
                unit="one record's own gradient rows (not what the tail learned from it)",
                adjacency="replace-one",
                accountant="analytic gaussian",
                releases=releases,
            ),
        )

    def _note_releases(self) -> None:
        # Only now has every defense had its say about the sampling. The parts are not kept: attacks may see a defense.
        training, self._training = self._training, None
        if training is not None:
            # Nobody says that a record was not in every single Poisson batch.
            batches = 1 if training.sampling == "shuffled" else training.steps_per_epoch
            self.state["records"] = torch.tensor(training.n_records, device="cpu")
            self.state["releases"] = torch.tensor(training.epochs * batches, device="cpu")
