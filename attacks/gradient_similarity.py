from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attacks.base import Attack, Budget, Finding, Goal, Progress, Stance
from attacks.label_matching import at_epoch
from attacks.labels.flips import labels_behind_flips
from attacks.labels.groups import likeliest, regrouped
from attacks.labels.probe import Turning, flip_rates, turning
from benchmark.metrics.labels import REGROUPINGS, cosines, directions, group_labels, similarity_to_all
from benchmark.view import Knowledge, KnownLabels, Phase, ServerView, Topology

# Labels kept this often need no undoing.
_KEPT = 0.99


class GradientSimilarity(Attack):
    """Samples of one class are sent back similar gradients: take the label of the most similar known one.

    Cosine similarity between cut gradients with k known labels a class, and clustering from there: Liu et al. (2022,
    arXiv 2203.05222). It reads only what a server is sent, and by default all of it: averaged over the epochs the
    similarity outlives noise that hides any one of them.

    `oblivious` is the published rule. `reads=both` adds the similarity of the body's outputs, `rounds` regroups the
    targets by their mean similarity to each group, and `sign=ignored` compares lines. A target whose gradient is
    exactly zero is matched by the body's output.

    `aware` calls the defense's hooks. From what they make of known gradients it learns whether these are turned round
    at random, so that only lines can be compared; from what they make of many labels, how often each is flipped into
    which. Where labels are flipped, the true ones come by Bayes from what was trained and what body outputs and smashed
    data say. Else it compares gradients, less what was added to all of them, and body outputs, and regroups.

    `adaptive` does the same against flips. Else it reads the smashed data too and weighs every source by how well it
    tells groups apart. It groups once with every epoch as a source of its own, because noise, a scale or exchanged
    coordinates in one epoch leave the others, and once with their mean, because late epochs of a victim that has
    learned everything repeat each other and would outvote the rest. It keeps the grouping under which all that it saw
    is likeliest, where what an epoch repeats of others counts once.
    """

    name: ClassVar[str] = "gradient_similarity"
    goals: ClassVar[tuple[Goal, ...]] = ("infer_labels",)
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious", "aware", "adaptive")
    planted: ClassVar[Mapping[str, object]] = {"k": 1}
    phases: ClassVar[tuple[Phase, ...]] = ("training",)
    topologies: ClassVar[tuple[Topology, ...]] = ("u_shaped",)

    k: int = Field(1, ge=1, description="known labels a class")
    reads: Literal["cut_gradient", "body_output", "both"] = Field(
        "cut_gradient", description="what is compared when oblivious; body_output uses no gradient and is the control"
    )
    epoch: int | None = Field(
        None,
        description="which epoch is read when oblivious, -1 is the last; null reads all gradients and the last output",
    )
    sign: Literal["kept", "ignored"] = Field(
        "kept", description="whether opposite gradients count as far or as near when oblivious"
    )
    rounds: int = Field(
        0, ge=0, description="how often targets are regrouped after the nearest known labels when oblivious; 0 never"
    )

    @model_validator(mode="after")
    def _only_the_oblivious_form_is_told(self) -> Self:
        told = [name for name in ("reads", "epoch", "sign", "rounds") if getattr(self, name) != self._default(name)]
        if told and self.stance != "oblivious":
            raise ValueError(f"the {self.stance} form finds {', '.join(told)} out itself; leave it out")
        return self

    @classmethod
    def _default(cls, name: str) -> object:
        return cls.model_fields[name].default

    def knowledge(self) -> frozenset[Knowledge]:
        """The architecture and k labels a class, and the defense unless oblivious."""
        return super().knowledge() | {Knowledge.KNOWN_LABELS}

    def known_labels_per_class(self) -> int:
        """As many as the parameter k says."""
        return self.k

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Label every view's targets by their nearest known sample, or their group."""
        infer = {"oblivious": self._oblivious, "aware": self._aware, "adaptive": self._adaptive}[self.stance]
        findings = []
        for done, view in enumerate(views, start=1):
            findings.append(Finding(labels=infer(view)))
            progress(done / len(views))
        return findings

    def _oblivious(self, view: ServerView) -> Tensor:
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

    def _aware(self, view: ServerView) -> Tensor:
        gradients, outputs = self._gradients_of_all(view), self._outputs(view)
        found = self._turning(view)
        flips = self._flips(view)
        if flips is not None:
            return self._behind_flips(view, [outputs, self._smashed(view)], gradients, found, flips)
        similar = _compared(gradients, found.line_only).mean(dim=0) + outputs
        return group_labels(similar[: view.n], view.known_labels.labels, view.n_classes, REGROUPINGS)

    def _adaptive(self, view: ServerView) -> Tensor:
        known = view.known_labels
        gradients, outputs, smashed = self._gradients_of_all(view), self._outputs(view), self._smashed(view)
        found = self._turning(view)
        flips = self._flips(view)
        if flips is not None:
            return self._behind_flips(view, [outputs, smashed], gradients, found, flips)
        epochs = _compared(gradients, found.line_only)
        mean = epochs.mean(dim=0)
        sums = [mean + outputs + smashed, mean + outputs, mean + smashed, 3 * mean + outputs + smashed]
        starts = [group_labels(similar[: view.n], known.labels, view.n_classes, REGROUPINGS) for similar in sums]
        groupings = [
            regrouped([*gradients_read, outputs, smashed], start, known.labels, view.n_classes)
            for gradients_read in ((epochs, mean[None]) if len(epochs) > 1 else (epochs,))
            for start in starts
        ]
        return likeliest(groupings, [epochs, outputs[None], smashed[None]], known.labels, view.n_classes)

    def _behind_flips(
        self, view: ServerView, features: Sequence[Tensor], gradients: Tensor, found: Turning, flips: Tensor
    ) -> Tensor:
        known = view.known_labels
        outputs = _with(view.body_outputs, known.body_outputs).flatten(2).double()
        sense = 1 if found.along > 0 else -1
        return labels_behind_flips(
            features,
            _compared(gradients, found.line_only).mean(dim=0),
            (outputs, sense * directions(gradients)) if found.aligned else None,
            known.labels,
            flips,
            view.rng("groups").seed,
        )

    def _turning(self, view: ServerView) -> Turning:
        known = view.known_labels
        assert known.cut_gradients is not None  # u-shaped training gives all or nothing
        return turning(view.protection, known.cut_gradients, known.labels)

    def _flips(self, view: ServerView) -> Tensor | None:
        """How often labels are flipped into which, or None where they are kept."""
        flips = flip_rates(view.protection, view.n_classes, view.rng("labels to try"), view.device)
        return None if float(flips.diagonal().min()) > _KEPT else flips

    def _outputs(self, view: ServerView) -> Tensor:
        return _similar(_with(view.body_outputs, view.known_labels.body_outputs)).mean(dim=0)

    def _smashed(self, view: ServerView) -> Tensor:
        return _similar(torch.cat([view.smashed, view.known_labels.smashed], dim=1)).mean(dim=0)

    def _gradients_of_all(self, view: ServerView) -> Tensor:
        at_epoch(self, view.cut_gradients, -1)
        return _centred(_with(view.cut_gradients, view.known_labels.cut_gradients))


def _with(targets: Tensor | None, known: Tensor | None) -> Tensor:
    """Targets and, behind them, known samples, [k, n + m, ...]."""
    assert targets is not None
    assert known is not None  # u-shaped training gives all or nothing
    return torch.cat([targets, known], dim=1)


def _compared(gradients: Tensor, line_only: bool) -> Tensor:
    """Similarity of rows of [k, n, d] in every epoch, or of their lines, [k, n, n]."""
    similar = _similar(gradients)
    return similar.abs() if line_only else similar


def _centred(rows: Tensor) -> Tensor:
    """Rows of [k, n, ...] less what was added to all of an epoch's, float64: that tells nothing, and may hide the rest.

    It is taken to be each coordinate's median (not the mean, which the few large gradients of misfit samples move), and
    is left in where it is shorter than half of the rows, as in gradients nothing was added to.
    """
    flat = rows.flatten(2).double()
    shared = flat.median(dim=1, keepdim=True).values
    typical = torch.linalg.vector_norm(flat - shared, dim=2).median(dim=1).values[:, None, None]
    return flat - shared.where(torch.linalg.vector_norm(shared, dim=2, keepdim=True) > typical, 0.0)


def _similar(rows: Tensor) -> Tensor:
    """Cosines of each of [k, n, ...] with each in every view, [k, n, n], float64."""
    return cosines(rows, rows)
