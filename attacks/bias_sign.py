from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from attacks.base import Attack, Budget, Finding, Goal, Progress
from attacks.label_matching import at_epoch
from benchmark.errors import UserError
from benchmark.view import Knowledge, Phase, ServerView, Topology


class BiasSign(Attack):
    """The closed form: the label is the class whose last-layer bias has the most negative gradient.

    Under softmax cross-entropy that gradient is softmax(logits) - onehot(label), of which only the label's entry is
    negative (Zhao, Mopuri and Bilen, 2020, arXiv 2001.02610). In a batch the entries are averaged, and the rule
    names the batch's commonest class. No server is sent this gradient: the threat model is `weight gradients`.

    What it must succeed on: a tail whose last layer has a bias, in batches of one sample; it takes no steps, so its
    planted clients need no parameters.
    """

    name: ClassVar[str] = "bias_sign"
    goals: ClassVar[tuple[Goal, ...]] = ("infer_labels",)
    planted: ClassVar[Mapping[str, object]] = {}
    phases: ClassVar[tuple[Phase, ...]] = ("training",)
    topologies: ClassVar[tuple[Topology, ...]] = ("u_shaped",)

    epoch: int = Field(-1, description="which epoch's gradients are read; -1 is the last")

    def knowledge(self) -> frozenset[Knowledge]:
        """The tail's architecture and its weight gradients."""
        return super().knowledge() | {Knowledge.WEIGHT_GRADIENTS}

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Read the labels off every view.

        Raises:
            UserError: The tail's last layer has no bias with one entry a class.
        """
        findings = []
        for done, view in enumerate(views, start=1):
            name, series = list(view.weight_gradients.items())[-1]
            gradient = at_epoch(self, series, self.epoch)
            if gradient.shape[1:] != (view.n_classes,):
                raise UserError(
                    f"bias_sign: the tail's last parameter {name!r} has shape {tuple(gradient.shape[1:])}, "
                    f"not one entry for each of {view.n_classes} classes; use a tail whose last layer has a bias"
                )
            findings.append(Finding(labels=gradient.argmin(dim=1)))
            progress(done / len(views))
        return findings
