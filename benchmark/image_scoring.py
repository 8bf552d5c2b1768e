"""Scores the reconstructions of one set of targets, and everything that stands beside them whatever the attack did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.metrics.identification import Lineup, identification_scores, lineup
from benchmark.metrics.reconstruction import (
    Images,
    Scores,
    align,
    control_images,
    mean_scores,
    score_images,
    worst_checkpoint,
)
from benchmark.seeds import Rng

if TYPE_CHECKING:
    from benchmark.data import Dataset, Part
    from benchmark.metrics.recognition import Recogniser
    from benchmark.view import Phase


@dataclass(frozen=True)
class Targets:
    """The private images of a cell. Two with the same name hold the same images.

    Attributes:
        dataset: Where they are from.
        phase: When the server saw them: from the test part (inference) or the victim part (training).
        rule: How they were chosen, canonical.
        ids: Which they are.
        images: [n, channels, height, width], in [0, 1].
        labels: [n], int64.
    """

    dataset: Dataset
    phase: Phase
    rule: str
    ids: tuple[int, ...]
    images: Tensor = field(compare=False, repr=False)
    labels: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, dataset: Dataset, phase: Phase, rule: str, truth: Part) -> Targets:
        """The targets that `truth` holds."""
        return cls(dataset, phase, rule, tuple(truth.ids.tolist()), truth.images.cpu(), truth.labels.cpu())

    def rng(self, purpose: str) -> Rng:
        """A stream named by the data alone, so that every attack on the same targets meets the same draws."""
        return Rng(purpose, self.dataset.digest, self.rule, self.phase)


@dataclass(frozen=True)
class Beside:
    """What stands beside a score, the same for every attack on the same targets.

    Attributes:
        lineup: Of each target.
        controls: Control -> metric -> one value a target, all metrics that a reconstruction has.
        scalars: `identification_candidates`, `identification_chance`, `recognition_of_truth`.
    """

    lineup: Lineup
    controls: Mapping[str, Scores]
    scalars: Mapping[str, float]


def score_reconstructions(
    reconstructions: Tensor, targets: Targets, recogniser: Recogniser | None
) -> tuple[int, Scores, Beside]:
    """Score the checkpoint that is worst for the defense by mean aligned SSIM.

    Args:
        reconstructions: [checkpoints, n, channels, height, width], any finite range.
        targets: What they should show.
        recogniser: Of the targets' data set, or None to leave recognition out.

    Returns:
        Position of the checkpoint; its scores, those of `benchmark.metrics.reconstruction`, `identified`,
        `identification_rank` and `recognised`; and what stands beside them.

    Raises:
        PluginError: The reconstructions have a wrong shape or are not finite.
        UserError: The images are smaller than the SSIM window, or the data set gives no controls.
    """
    checkpoint, scores = worst_checkpoint(reconstructions, targets.images)
    beside = _beside(targets, recogniser)
    found = scores | _readings(_array(reconstructions[checkpoint]), targets, beside.lineup, recogniser)
    return checkpoint, found, beside


@lru_cache(maxsize=16)
def _beside(targets: Targets, recogniser: Recogniser | None) -> Beside:
    # Controls are as dear as an attack's own scores ten times over; cells of one process share them.
    dataset = targets.dataset
    part = dataset.victim if targets.phase == "training" else dataset.test
    among = lineup(targets.images, part, targets.rng("line-up"))
    drawn = control_images(targets.images, dataset.auxiliary, targets.rng("controls"))
    controls = {
        name: mean_scores(
            [
                score_images(torch.from_numpy(images), targets.images) | _readings(images, targets, among, recogniser)
                for images in draws
            ]
        )
        for name, draws in drawn.items()
    }
    scalars = {"identification_candidates": float(among.candidates), "identification_chance": among.chance}
    if recogniser is not None:
        read = recogniser.recognised(targets.images, targets.labels)
        scalars["recognition_of_truth"] = sum(read) / len(read)
    return Beside(among, controls, scalars)


def _readings(images: Images, targets: Targets, among: Lineup, recogniser: Recogniser | None) -> Scores:
    found = identification_scores(torch.from_numpy(images), among)
    if recogniser is not None:
        aligned = torch.from_numpy(align(images, _array(targets.images)))
        found["recognised"] = recogniser.recognised(aligned, targets.labels)
    return found


def _array(images: Tensor) -> Images:
    array: Images = images.detach().cpu().double().numpy()
    return array
