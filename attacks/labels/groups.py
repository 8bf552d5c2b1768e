"""Grouping samples by what a server sees of them, where each source is weighted by how well it tells groups apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

ROUNDS = 30
# Below it, a mean over pairs is a mean over nothing.
_FEWEST_PAIRS = 0.5


def regrouped(
    kernels: Sequence[Tensor], starts: Sequence[Tensor], known: Tensor, n_classes: int, rounds: int = ROUNDS
) -> tuple[Tensor, float]:
    """Labels of targets by a Gaussian mixture over several sources at once, one group a label.

    Expectation maximisation in kernel form: only similarities within a source are compared, so that a source may be
    turned, scaled or have its coordinates exchanged by a key of its own. In every round a source counts by the inverse
    of its variance within groups and dimensions, so that noise in one is outweighed by the others. Known samples stay
    in their groups, and no sample counts in the mean that it is compared with. Of several starts the one counts whose
    groups end up farthest apart.

    Args:
        kernels: Similarities [n + m, n + m] (inner products, or their absolute values) of n targets and, behind them, m
            known samples, one a source; a sample whose similarity to itself is zero is not judged by that source.
        starts: At least one: [n], int64, labels to begin with.
        known: [m], int64, labels of the known samples.
        n_classes: Number of labels.
        rounds: At most so many.

    Returns:
        [n], int64, and how far apart the groups are (`separation`).
    """
    found = [_regrouped(kernels, start, known, n_classes, rounds) for start in starts]
    apart = [separation(kernels, one_hot(torch.cat([labels, known]), n_classes).to(kernels[0])) for labels in found]
    best = apart.index(max(apart))
    return found[best], apart[best]


def separation(kernels: Sequence[Tensor], groups: Tensor) -> float:
    """How far groups are apart in all sources: mean similarity within less that between, over the spread within.

    Args:
        kernels: As for `regrouped`.
        groups: [N, groups], one-hot.
    """
    together = groups @ groups.T
    within, between = together - together.diagonal().diag(), 1 - together
    apart = 0.0
    for kernel in _heard(kernels):
        inside, outside = (float((kernel * pairs).sum() / pairs.sum().clamp(min=1e-9)) for pairs in (within, between))
        apart += (inside - outside) / _spread(kernel, groups)
    return apart


def _regrouped(kernels: Sequence[Tensor], start: Tensor, known: Tensor, n_classes: int, rounds: int) -> Tensor:
    n = len(start)
    fixed = one_hot(known, n_classes).to(kernels[0])
    groups = torch.cat([one_hot(start, n_classes).to(kernels[0]), fixed])
    for _ in range(rounds):
        after = log_likelihoods(kernels, groups)[:n].softmax(dim=1)
        settled = torch.equal(after.argmax(dim=1), groups[:n].argmax(dim=1))
        groups = torch.cat([after, fixed])
        if settled:
            break
    return groups[:n].argmax(dim=1)


def _heard(kernels: Sequence[Tensor]) -> list[Tensor]:
    return [kernel for kernel in kernels if float(kernel.diagonal().sum()) > 0]


def log_likelihoods(kernels: Sequence[Tensor], groups: Tensor) -> Tensor:
    """How likely each sample is in each group, up to a constant for each sample.

    Args:
        kernels: As for `regrouped`.
        groups: [N, groups], each row sums to 1: how far a sample belongs to each group.

    Returns:
        [N, groups], float64.
    """
    heard = _heard(kernels)
    if not heard:
        return torch.zeros_like(groups)
    weights = [1 / _spread(kernel, groups) for kernel in heard]
    total = sum((weight * kernel for weight, kernel in zip(weights, heard, strict=True)), torch.zeros_like(heard[0]))
    distances = sum(
        (weight * _distances(kernel, groups) for weight, kernel in zip(weights, heard, strict=True)),
        torch.zeros_like(groups),
    )
    # Sources that repeat each other (epochs do, where nothing is random) count once: their dimensions are not new.
    blurred = 1 + 1 / (groups.sum(dim=0) - groups).clamp(min=1)
    return -distances / (2 * _spread(total, groups) * blurred)


def _distances(kernel: Tensor, groups: Tensor) -> Tensor:
    """Squared distance of each sample to each group's mean without it, but for what is equal for all groups.

    A mean of noisy samples is longer than the truth's; taken over pairs of different samples its length is not.
    """
    own = kernel.diagonal()[:, None]
    sizes, sums = groups.sum(dim=0), kernel @ groups
    others = (sizes - groups).clamp(min=1e-9)
    towards = (sums - own * groups) / others
    products = (groups * sums).sum(dim=0) - (groups.square() * own).sum(dim=0)
    products = products - 2 * groups * sums + 2 * groups.square() * own
    pairs = sizes.square() - groups.square().sum(dim=0) - 2 * groups * sizes + 2 * groups.square()
    length = (products / pairs.clamp(min=_FEWEST_PAIRS)).where(pairs > _FEWEST_PAIRS, towards.square())
    return (length - 2 * towards) * (own > 0)


def _spread(kernel: Tensor, groups: Tensor) -> float:
    """Variance within groups, per dimension that the samples take up within them; above 0."""
    own, sums, sizes = kernel.diagonal(), kernel @ groups, groups.sum(dim=0)
    pairs = sizes.square().sum() - groups.square().sum()
    shared = ((groups * sums).sum() - (groups.square() * own[:, None]).sum()) / pairs.clamp(min=1e-9)
    variance = float((own.mean() - shared).clamp(min=1e-9))
    averaging = groups / sizes.clamp(min=1e-9)
    means = averaging @ sums.T
    # Similarities of what is left of the samples without the means of their groups.
    rest = kernel - means - means.T + averaging @ (groups.T @ sums) @ averaging.T
    # The participation ratio of so few samples is too low by what random ones would share (1/d + 1/n).
    shares = float(rest.square().sum() / rest.diagonal().sum().square().clamp(min=1e-30))
    free = max(len(kernel) - groups.shape[1], 1)
    return variance * max(shares - 1 / free, 1e-4)
