"""Labels behind label flipping: gradients tell what was trained, and the flips' rates how likely each truth is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.labels.groups import log_likelihoods
from benchmark.metrics.labels import REGROUPINGS, group_labels

# Confidence in what the body's outputs say; the one under which the trained labels are likeliest is taken.
_CONFIDENCES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
# How often a tail's own prediction is the label it was trained to give; only its being far above chance matters.
_PREDICTED = 0.5
_UNSEEN = 1e-6
_ROUNDS = 10


def labels_behind_flips(
    features: Sequence[Tensor],
    gradients: Tensor,
    aligned: tuple[Tensor, Tensor] | None,
    known: Tensor,
    flips: Tensor,
    seed: int,
) -> Tensor:
    """True labels of targets whose gradients were made with flipped ones.

    Gradients are grouped without any label (k-means on the leading principal directions), because those of known
    samples carry flipped labels too. Each group is named so that trained labels and what the features say of the true
    ones fit the flip rates best (the assignment problem). Then Bayes: a truth is as likely as the features say times
    the rate at which it is flipped into the group's label.

    Args:
        features: Inner products [n + m, n + m], of what tells true labels: body outputs, smashed data.
        gradients: Inner products [n + m, n + m] of cut gradients.
        aligned: Body outputs and gradients, each [k, n + m, d], where both stand in the same coordinates and gradients
            keep their sign; else None. A one-layer tail's rows are, but for a vector they share, the negative mean
            gradients of its classes: their product with an output is what the tail predicts for it, which names groups
            by all that the tail has learned.
        known: [m], int64, true labels of the known samples.
        flips: [true, trained], rows sum to 1.
        seed: Of the grouping.

    Returns:
        [n], int64.
    """
    n_classes, n = len(flips), len(gradients) - len(known)
    similarity = sum(features, torch.zeros_like(gradients))
    start = group_labels(similarity[:n], known, n_classes, REGROUPINGS)
    fixed = one_hot(known, n_classes).to(gradients)
    truths = torch.cat([one_hot(start, n_classes).to(gradients), fixed])
    groups = one_hot(_grouped(gradients, n_classes, seed), n_classes).to(gradients)
    rates = (flips + _UNSEEN).log()

    # Named by the known samples alone, by all that the features say, and by what the tail predicts.
    fits = [groups[n:].T @ fixed @ rates, groups.T @ truths @ rates]
    if aligned is not None:
        likeliest = one_hot(flips.argmax(dim=1), n_classes).to(flips)
        predicted = (_PREDICTED * likeliest + (1 - _PREDICTED) * flips + _UNSEEN).log()
        fits += [fit + _predicted(*aligned, groups).T @ truths @ predicted for fit in fits]
    readings = [_read(features, groups, _named(fit), truths, known, rates) for fit in fits]
    return max(readings, key=lambda reading: reading[1])[0]


def _read(
    features: Sequence[Tensor], groups: Tensor, names: Tensor, truths: Tensor, known: Tensor, rates: Tensor
) -> tuple[Tensor, float]:
    """Labels of the targets under a naming of the groups, and how likely it makes the trained labels."""
    n = len(truths) - len(known)
    evidence = -math.inf
    # What a known sample cannot be.
    excluded = torch.cat([torch.ones_like(truths[:n]), truths[n:]]).log()
    for _ in range(_ROUNDS):
        trained = rates.T[names[groups.argmax(dim=1)]]
        said = log_likelihoods(features, truths)
        joints = [(confidence * said).log_softmax(dim=1) + trained + excluded for confidence in _CONFIDENCES]
        best = max(joints, key=_evidence)
        evidence = _evidence(best)
        truths = best.softmax(dim=1)
        renamed = _named(groups.T @ truths @ rates)
        if torch.equal(renamed, names):
            break
        names = renamed
    return truths[:n].argmax(dim=1), evidence


def _named(fit: Tensor) -> Tensor:
    """Label of each group, none twice, so that the sum of `fit` ([groups, labels]) is largest."""
    return torch.as_tensor(linear_sum_assignment(-fit.cpu().numpy())[1], device=fit.device)


def _evidence(joint: Tensor) -> float:
    return float(joint.logsumexp(dim=1).sum())


def _grouped(kernel: Tensor, n_groups: int, seed: int) -> Tensor:
    # Slow to import, and of use only where labels are flipped.
    from sklearn.cluster import KMeans

    values, vectors = torch.linalg.eigh(kernel.cpu())
    places = vectors[:, -n_groups:] * values[-n_groups:].clamp(min=0).sqrt()
    found = KMeans(n_groups, n_init=10, random_state=seed % 2**32).fit(places.numpy())
    return torch.as_tensor(found.labels_, dtype=torch.int64, device=kernel.device)


def _predicted(outputs: Tensor, gradients: Tensor, groups: Tensor) -> Tensor:
    """One-hot group that the tail itself would give each sample, over all epochs."""
    means = groups.T @ gradients / groups.sum(dim=0).clamp(min=1)[:, None]
    scores = -outputs @ means.mT
    scores = scores - scores.mean(dim=1, keepdim=True)
    scores = scores / scores.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-30)
    return one_hot(scores.mean(dim=0).argmax(dim=1), groups.shape[1]).to(groups)
