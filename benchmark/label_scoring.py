"""Scores an inference of labels beside what the same known labels give without any gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.metrics.labels import Space, accuracy_without_gradient, label_controls, label_scores
from benchmark.once import once
from benchmark.tensors import tensors_digest

if TYPE_CHECKING:
    from benchmark.data import Dataset
    from benchmark.observe import Observation
    from benchmark.victim import Victim

Scored = tuple[dict[str, list[float]], dict[str, dict[str, list[float]]], dict[str, float]]


def score_labels(inferred: Tensor, truth: Tensor, n_classes: int, without_gradient: Mapping[str, float]) -> Scored:
    """Accuracy of inferred labels, and its controls.

    Args:
        inferred: [n], whole numbers.
        truth: [n], int64.
        n_classes: Number of labels.
        without_gradient: As the function of this name gives it.

    Returns:
        Per-image values, controls (`benchmark.metrics.labels.label_controls`) and scalars: `label_accuracy` and
        `without_gradient`.
    """
    per_image = label_scores(inferred, truth)
    scalars = {"label_accuracy": sum(per_image["correct"]) / len(per_image["correct"]), **without_gradient}
    return per_image, label_controls(truth, n_classes, without_gradient.values()), scalars


def without_gradient(
    observation: Observation, victim: Victim, undefended: Victim | None, dataset: Dataset
) -> dict[str, float]:
    """What servers know of the labels without gradients; the same for all attacks that know as many.

    Args:
        observation: What the defended server saw, with the truth.
        victim: Whom it saw.
        undefended: The victim without defenses at the same seed and cut; None where `victim` has no defenses itself.
        dataset: Whose data.

    Returns:
        Where labels are known, `label_accuracy_no_gradient` of the defended server and
        `label_accuracy_no_gradient_undefended`, else nothing. Both together tell a leak of the protocol (the defended
        network separates classes better than the undefended one) from one of the gradients.

    Raises:
        ValueError: A defended victim comes without an undefended one.
    """
    if observation.known is None or observation.known_images is None:
        return {}
    if undefended is None:
        if victim.spec.defenses:
            raise ValueError("a defended victim's labels are scored beside the undefended one; give undefended=")
        undefended = victim
    truth, known, known_images = observation.truth, observation.known.labels, observation.known_images

    def accuracy(spaces: list[Space]) -> float:
        return accuracy_without_gradient(truth.labels, dataset.n_classes, known, spaces)

    # Every victim at one seed stands beside the same undefended one.
    shown = tensors_digest({"targets": truth.images.cpu(), "known": known_images.cpu()}, {})
    return {
        "label_accuracy_no_gradient": accuracy(_defended(observation)),
        "label_accuracy_no_gradient_undefended": once(
            undefended,
            dataset,
            ("labels without gradient, undefended", shown),
            lambda: accuracy(_undefended(undefended, truth.images, known_images)),
        ),
    }


def _defended(observation: Observation) -> list[Space]:
    known = observation.known
    assert known is not None
    spaces = [Space(observation.sent, known.smashed)]
    if observation.body_outputs is not None and known.body_outputs is not None:
        spaces.append(Space(observation.body_outputs, known.body_outputs))
    return spaces


def _undefended(victim: Victim, targets: Tensor, known: Tensor) -> list[Space]:
    """What the undefended victim, trained to the end, makes of the same images: nothing a defense takes part in."""
    with torch.no_grad():
        smashed = [victim.split.head(images) for images in (targets, known)]
        outputs = [victim.split.body(z) for z in smashed]
    return [Space(targets[None], known[None]) for targets, known in (smashed, outputs)]
