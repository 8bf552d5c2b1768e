from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.base import Attack, Budget, Finding, Goal, Progress
from attacks.label_matching import at_epoch
from benchmark.metrics.labels import cosines, group_labels, similarity_to_all
from benchmark.view import Knowledge, KnownLabels, Phase, ServerView, Topology


class GradientSimilarity(Attack):
    """Samples of one class are sent back similar gradients: take the label of the most similar known one.

    Cosine similarity between cut gradients with k known labels a class, and clustering from there: Liu et al. (2022,
    arXiv 2203.05222). It reads only what a server is sent, and by default all of it: averaged over the epochs the
    similarity outlives noise that hides any one of them. `reads=both` adds the similarity of the body's outputs, and
    `rounds` regroups the targets by their mean similarity to each group, which outlive more. `sign=ignored` is for
    defenses that turn a gradient round but keep its line, as max_norm does. A target whose gradient is exactly zero is
    matched by the body's output.
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

    rounds: int = Field(0, ge=0, description="how often targets are regrouped after the nearest known labels; 0 never")

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
        return group_labels(self._similarity(view, known), known.labels, view.n_classes, self.rounds)

    def _similarity(self, view: ServerView, known: KnownLabels) -> Tensor:
        """Of each of n targets to the targets and the m known samples, [n, n + m]."""
        outputs = similarity_to_all(self._read(view.body_outputs), self._read(known.body_outputs))
        if self.reads == "body_output":
            return outputs
        rows = self._gradients(view.cut_gradients)
        by_epoch = cosines(rows, torch.cat([rows, self._gradients(known.cut_gradients)], dim=1))
        gradients = (by_epoch if self.sign == "kept" else by_epoch.abs()).mean(dim=0)
        if self.reads == "both":
            return gradients + outputs
        silent = (rows == 0).flatten(2).all(dim=2).all(dim=0)
        return gradients.where(~silent[:, None], outputs)

    def _gradients(self, series: Tensor | None) -> Tensor:
        return series if self.epoch is None and series is not None else self._read(series)

    def _read(self, series: Tensor | None) -> Tensor:
        return at_epoch(self, series, -1 if self.epoch is None else self.epoch)[None]
