from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from attacks.base import Attack, Budget, Finding, Goal, Progress
from attacks.label_matching import at_epoch
from benchmark.metrics.labels import cosines
from benchmark.view import Knowledge, Phase, ServerView, Topology


class GradientSimilarity(Attack):
    """Samples of one class are sent back similar gradients: take the label of the most similar known one.

    Cosine similarity between cut gradients, with k known labels a class: Liu et al. (2022, arXiv 2203.05222). It reads
    only what a server is sent, and by default all of it: averaged over the epochs the similarity outlives noise that
    hides any one of them. `reads=both` adds the similarity of the body's outputs, which outlives more; `sign=ignored`
    is for defenses that turn a gradient round but keep its line, as max_norm does. A target whose gradient is exactly
    zero is matched by the body's output.
    """

    name: ClassVar[str] = "gradient_similarity"
    goals: ClassVar[tuple[Goal, ...]] = ("infer_labels",)
    phases: ClassVar[tuple[Phase, ...]] = ("training",)
    topologies: ClassVar[tuple[Topology, ...]] = ("u_shaped",)

    k: int = Field(1, ge=1, description="known labels a class")
    reads: Literal["cut_gradient", "body_output", "both"] = Field(
        "cut_gradient", description="what is compared; body_output uses no gradient and is the control"
    )
    epoch: int | None = Field(
        None, description="which epoch is read, -1 is the last; null reads all gradients and the last body output"
    )
    sign: Literal["kept", "ignored"] = Field("kept", description="whether opposite gradients count as far or as near")

    def knowledge(self) -> frozenset[Knowledge]:
        """The architecture and k labels a class."""
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.KNOWN_LABELS})

    def known_labels_per_class(self) -> int:
        """As many as the parameter k says."""
        return self.k

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Label every view's targets by their nearest known sample."""
        findings = []
        for done, view in enumerate(views, start=1):
            findings.append(Finding(labels=self._infer(view)))
            progress(done / len(views))
        return findings

    def _infer(self, view: ServerView) -> Tensor:
        known = view.known_labels
        outputs = cosines(self._at(view.body_outputs), self._at(known.body_outputs))[0]
        similarity = outputs
        if self.reads != "body_output":
            rows = self._gradients(view.cut_gradients)
            gradients = cosines(rows, self._gradients(known.cut_gradients))
            gradients = (gradients if self.sign == "kept" else gradients.abs()).mean(dim=0)
            silent = (rows == 0).flatten(2).all(dim=2).all(dim=0)
            similarity = gradients + outputs if self.reads == "both" else gradients.where(~silent[:, None], outputs)
        return known.labels.to(similarity.device)[similarity.argmax(dim=1)]

    def _gradients(self, series: Tensor | None) -> Tensor:
        return series if self.epoch is None and series is not None else self._at(series)

    def _at(self, series: Tensor | None) -> Tensor:
        return at_epoch(self, series, -1 if self.epoch is None else self.epoch)[None]
