"""How well labels were inferred, and what scores as well without any gradient."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmark.errors import PluginError

# Rounds after which groups of targets no longer change in practice.
REGROUPINGS = 20


@dataclass(frozen=True)
class Space:
    """What a server received or computed, in one layer.

    Attributes:
        targets: [k, n, ...].
        known: [k, m, ...] of the samples whose labels are known.
    """

    targets: Tensor
    known: Tensor


def label_scores(inferred: Tensor, truth: Tensor) -> dict[str, list[float]]:
    """Which labels were inferred correctly.

    Args:
        inferred: [n], whole numbers.
        truth: [n], int64.

    Returns:
        `correct`: 1 or 0 for each target.

    Raises:
        PluginError: The shapes differ.
    """
    if inferred.shape != truth.shape:
        raise PluginError(
            f"the inferred labels have shape {tuple(inferred.shape)} for {len(truth)} targets; "
            "return one label a target"
        )
    return {"correct": (inferred.to(truth.device) == truth).double().tolist()}


def advantage(accuracy: float, control: float) -> float:
    """How far an accuracy is above a control, on the way to 1: (accuracy - control) / (1 - control).

    Label differential privacy bounds this advantage and not the accuracy (Wu et al., 2023, arXiv 2202.12968).

    Args:
        accuracy: In [0, 1].
        control: Accuracy of the best control, in [0, 1].

    Returns:
        1 for a perfect attack, 0 at the control, negative below it; 0 where the control is perfect itself, because
        nothing is left to gain.
    """
    return (accuracy - control) / (1 - control) if control < 1 else 0.0


def label_controls(
    truth: Tensor, n_classes: int, without_gradient: Collection[float] = ()
) -> dict[str, dict[str, list[float]]]:
    """Accuracy of what infers labels without any gradient.

    The control with known labels stands for what gradients add nothing to. Were it taken from the defended network
    alone, a defense could raise it (by sharper features, or by marking what it sends with the label) and so look safe
    however much its gradients tell; were it taken from the undefended one alone, a defense that spoils the features
    would be credited with what its server cannot compute at all. So it is the least over servers: no defense can raise
    it above the undefended one's, and what a defended network tells beyond that came to the server by the defended
    protocol and counts against the defense.

    Args:
        truth: [n], int64.
        n_classes: Number of labels.
        without_gradient: Without known labels none; else `accuracy_without_gradient` of the defended server and of the
            undefended one.

    Returns:
        One `accuracy` for each control. `chance`: 1 / n_classes. `majority`: share of the targets' commonest label.
        `known_labels_no_gradient`, where labels are known: the least over servers.
    """
    controls = {"chance": 1 / n_classes, "majority": _majority(truth, n_classes)}
    if without_gradient:
        controls["known_labels_no_gradient"] = min(without_gradient)
    return {name: {"accuracy": [value]} for name, value in controls.items()}


def accuracy_without_gradient(truth: Tensor, n_classes: int, known: Tensor, spaces: Sequence[Space]) -> float:
    """Accuracy of the best predictor that reads what a server computes itself.

    The cosine nearest known sample, and groups from there: in each space, in its last view or all, regrouped or not,
    whichever does best.

    Args:
        truth: [n], int64.
        n_classes: Number of labels.
        known: [m], int64, labels of the known samples.
        spaces: At least one: smashed data, body outputs.

    Returns:
        In [0, 1].
    """
    similarities = [
        similarity_to_all(space.targets[first:], space.known[first:])
        for space in spaces
        for first in ((-1, 0) if len(space.targets) > 1 else (0,))
    ]
    return max(
        _accuracy(group_labels(similarity, known, n_classes, rounds), truth)
        for similarity in similarities
        for rounds in (0, REGROUPINGS)
    )


def group_labels(similarity: Tensor, labels: Tensor, n_classes: int, rounds: int) -> Tensor:
    """Labels of targets by their similarity to known samples and, in rounds, to each other.

    First every target takes the label of the most similar known sample; then, in each round, that of the group it is on
    average most similar to, itself left out (kernel k-means with the known samples held fixed).

    Args:
        similarity: [n, n + m] of each of n targets to the targets and the m known samples.
        labels: [m] of the known samples, int64.
        n_classes: Number of labels.
        rounds: How often targets are regrouped; 0 never.

    Returns:
        [n], int64.
    """
    labels = labels.to(similarity.device)
    inferred = labels[similarity[:, len(similarity) :].argmax(dim=1)]
    # A target must not vote for its own group.
    to_others = similarity.clone().fill_diagonal_(0)
    for _ in range(rounds):
        groups = one_hot(torch.cat([inferred, labels]), n_classes).to(similarity)
        sizes = groups.sum(dim=0) - groups[: len(inferred)]
        means = to_others @ groups / sizes.clamp(min=1)
        inferred = means.where(sizes > 0, -math.inf).argmax(dim=1)
    return inferred


def similarity_to_all(targets: Tensor, known: Tensor) -> Tensor:
    """Cosine similarity of each of [k, n, ...] to the n targets and to [k, m, ...], averaged over views: [n, n + m]."""
    everything = directions(torch.cat([targets, known], dim=1))
    return (everything[:, : targets.shape[1]] @ everything.mT).mean(dim=0)


def cosines(targets: Tensor, known: Tensor) -> Tensor:
    """Cosine similarity of each of [k, n, ...] with each of [k, m, ...] in every view, [k, n, m], float64.

    A row of zeros has similarity 0 to everything.
    """
    return directions(targets) @ directions(known).mT


def directions(rows: Tensor) -> Tensor:
    """Each row of [k, n, ...] flattened and scaled to length 1, [k, n, d], float64; rows of zeros stay zero.

    Gradients of well fitted samples are so small that their squares vanish, so each row is first brought to a largest
    entry of 1.
    """
    flat = rows.flatten(2).double()
    largest = flat.abs().amax(dim=2, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, 1.0)
    length = torch.linalg.vector_norm(scaled, dim=2, keepdim=True)
    return scaled / torch.where(length > 0, length, 1.0)


def _majority(truth: Tensor, n_classes: int) -> float:
    return float(torch.bincount(truth, minlength=n_classes).max()) / len(truth)


def _accuracy(inferred: Tensor, truth: Tensor) -> float:
    return float((inferred == truth.to(inferred.device)).double().mean())
