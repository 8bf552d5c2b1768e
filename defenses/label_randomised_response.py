from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from defenses.base import Defense, PrivacyStatement, Side

if TYPE_CHECKING:
    from benchmark.seeds import Rng


class LabelRandomisedResponse(Defense):
    """Trains with a label that is kept with probability e^epsilon / (e^epsilon + K - 1), else any other one.

    K-ary randomised response (Warner, 1965; Kairouz, Oh and Viswanath, 2016, "Extremal Mechanisms for Local
    Differential Privacy", JMLR 17), drawn once per record and reused in every epoch, so that nothing composes. Pure
    label differential privacy against whoever sees anything of training.
    """

    name: ClassVar[str] = "label_randomised_response"
    side: ClassVar[Side] = "labels"

    epsilon: float = Field(1.0, ge=0, description="privacy of one label; 0 tells nothing, large values keep all labels")

    def protect_labels(self, y: Tensor, n_classes: int, rng: Rng) -> Tensor:
        """Labels of which each is the true one with the probability above."""
        if n_classes < 2:
            return y
        keep = 1 / (1 + (n_classes - 1) * math.exp(-self.epsilon))
        kept = rng.uniform(y.shape, y.device) < keep
        other = (y + 1 + rng.integers(n_classes - 1, y.shape, y.device)) % n_classes
        return torch.where(kept, y, other)

    def privacy(self) -> Sequence[PrivacyStatement]:
        """Pure epsilon for one record's label."""
        return (
            PrivacyStatement(
                view="labels",
                epsilon=self.epsilon,
                delta=0.0,
                unit="record (its label)",
                adjacency="replace-one",
                accountant="randomised response",
            ),
        )
