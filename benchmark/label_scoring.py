"""Scores an inference of labels beside what the same known labels give without any gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.metrics.labels import Space, accuracy_without_gradient, label_controls, label_scores

if TYPE_CHECKING:
    from benchmark.observe import Observation
    from benchmark.victim import Victim

Scored = tuple[dict[str, list[float]], dict[str, dict[str, list[float]]], dict[str, float]]


def score_labels(
    inferred: Tensor, observation: Observation, victim: Victim, undefended: Victim | None, n_classes: int
) -> Scored:
    """Accuracy of inferred labels, its controls, and what servers know without gradients.

    Args:
        inferred: [n], whole numbers.
        observation: What the defended server saw, with the truth.
        victim: Whom it saw.
        undefended: The victim without defenses at the same seed and cut; None where `victim` has no defenses itself.
        n_classes: Number of labels.

    Returns:
        Per-image values, controls (`benchmark.metrics.labels.label_controls`) and scalars: `label_accuracy`; where
        labels are known, `label_accuracy_no_gradient` of the defended server and
        `label_accuracy_no_gradient_undefended`. The latter two tell a leak of the protocol (the defended network
        separates classes better than the undefended one) from one of the gradients.

    Raises:
        ValueError: A defended victim comes without an undefended one.
    """
    truth = observation.truth.labels
    per_image = label_scores(inferred, truth)
    scalars = {"label_accuracy": sum(per_image["correct"]) / len(per_image["correct"])}
    if observation.known is None or observation.known_images is None:
        return per_image, label_controls(truth, n_classes), scalars
    labels = observation.known.labels
    servers = {
        "label_accuracy_no_gradient": _defended(observation),
        "label_accuracy_no_gradient_undefended": _undefended(observation, victim, undefended),
    }
    for name, spaces in servers.items():
        scalars[name] = accuracy_without_gradient(truth, n_classes, labels, spaces)
    return per_image, label_controls(truth, n_classes, labels, list(servers.values())), scalars


def _defended(observation: Observation) -> list[Space]:
    known = observation.known
    assert known is not None
    spaces = [Space(observation.sent, known.smashed)]
    if observation.body_outputs is not None and known.body_outputs is not None:
        spaces.append(Space(observation.body_outputs, known.body_outputs))
    return spaces


def _undefended(observation: Observation, victim: Victim, undefended: Victim | None) -> list[Space]:
    """What the undefended victim, trained to the end, makes of the same images: nothing a defense takes part in."""
    if undefended is None:
        if victim.spec.defenses:
            raise ValueError("a defended victim's labels are scored beside the undefended one; give undefended=")
        undefended = victim
    assert observation.known_images is not None
    split = undefended.split
    with torch.no_grad():
        smashed = [split.head(images) for images in (observation.truth.images, observation.known_images)]
        outputs = [split.body(z) for z in smashed]
    return [Space(targets[None], known[None]) for targets, known in (smashed, outputs)]
