"""Grouping samples by what a server sees of them, where each source is weighted by how well it tells groups apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

ROUNDS = 30
# Below it, a mean over pairs is a mean over nothing.
_FEWEST_PAIRS = 0.5
# Least share of one dimension: samples are taken to have 10,000 at most.
_LEAST_SHARE = 1e-4


def regrouped(kernels: Sequence[Tensor], start: Tensor, known: Tensor, n_classes: int, rounds: int = ROUNDS) -> Tensor:
    """Labels of targets by a Gaussian mixture over several sources at once, one group a label.

    Expectation maximisation in kernel form: only similarities within a source are compared, so that a source may be
    turned, scaled or have its coordinates exchanged by a key of its own. In every round a source counts by the inverse
    of its variance within groups and dimensions, so that noise in one is outweighed by the others. Known samples stay
    in their groups, and no sample counts in the mean that it is compared with.

    Args:
        kernels: Similarities [n + m, n + m] (inner products, or their absolute values) of n targets and, behind them, m
            known samples, one a source; a sample whose similarity to itself is zero is not judged by that source.
        start: [n], int64, labels to begin with.
        known: [m], int64, labels of the known samples.
        n_classes: Number of labels.
        rounds: At most so many.

    Returns:
        [n], int64.
    """
    n, heard = len(start), _heard(kernels)
    fixed = one_hot(known, n_classes).to(kernels[0])
    groups = torch.cat([one_hot(start, n_classes).to(kernels[0]), fixed])
    for _ in range(rounds):
        after = _likelihoods(heard, groups)[:n].softmax(dim=1)
        settled = torch.equal(after.argmax(dim=1), groups[:n].argmax(dim=1))
        groups = torch.cat([after, fixed])
        if settled:
            break
    return groups[:n].argmax(dim=1)


def likeliest(groupings: Sequence[Tensor], sources: Sequence[Tensor], known: Tensor, n_classes: int) -> Tensor:
    """The one of several groupings under which all that was seen is likeliest, by one measure for all of them.

    The Gaussian log-likelihood of a grouping is, but for what is equal for all, minus half the log of the variance
    within groups for each dimension of each source. Views of one source add up as far as they differ within groups:
    what one repeats of others counts once.

    Args:
        groupings: At least one: [n], int64, labels of the targets.
        sources: Similarities [k, n + m, n + m] in k views of a source; see `regrouped`.
        known: [m], int64, labels of the known samples.
        n_classes: Number of labels.

    Returns:
        [n], int64.
    """
    if not any(_heard(source) for source in sources):
        return groupings[0]
    fits = []
    for labels in groupings:
        groups = one_hot(torch.cat([labels, known]), n_classes).to(sources[0])
        fits.append([fit for source in sources for fit in _fits(_heard(source), groups)])
    variances, dimensions, repeats = torch.tensor(fits, dtype=torch.float64, device="cpu").unbind(dim=2)
    # How many dimensions there are, and are new, must not depend on the grouping that is judged.
    weights = dimensions.mean(dim=0) / repeats.mean(dim=0)
    return groupings[int((variances.log() @ weights).argmin())]


def log_likelihoods(kernels: Sequence[Tensor], groups: Tensor) -> Tensor:
    """How likely each sample is in each group, up to a constant for each sample.

    Args:
        kernels: As for `regrouped`.
        groups: [N, groups], each row sums to 1: how far a sample belongs to each group.

    Returns:
        [N, groups], float64.
    """
    return _likelihoods(_heard(kernels), groups)


def _likelihoods(heard: Sequence[Tensor], groups: Tensor) -> Tensor:
    if not heard:
        return torch.zeros_like(groups)
    weights = [1 / _spread(kernel, groups) for kernel in heard]
    total = sum((weight * kernel for weight, kernel in zip(weights, heard, strict=True)), torch.zeros_like(heard[0]))
    distances = sum(
        (weight * _distances(kernel, groups) for weight, kernel in zip(weights, heard, strict=True)),
        torch.zeros_like(groups),
    )
    # Sources that repeat each other (epochs do, where nothing is random) make nobody surer: their dimensions are not
    # new.
    blurred = 1 + 1 / (groups.sum(dim=0) - groups).clamp(min=1)
    return -distances / (2 * _spread(total, groups) * blurred)


def _heard(kernels: Sequence[Tensor] | Tensor) -> list[Tensor]:
    return [_centred(kernel) for kernel in kernels if float(kernel.diagonal().sum()) > 0]


def _centred(kernel: Tensor) -> Tensor:
    """Inner products about the mean of all samples.

    Small groups' distances are blurred more; a vector that all samples share, as outputs of one body do, would be
    blurred with them, and small groups die out of it.
    """
    heard = (kernel.diagonal() > 0).to(kernel)
    means = kernel @ heard / heard.sum()
    centred = kernel - means - means[:, None] + means @ heard / heard.sum()
    return centred * heard * heard[:, None]


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


def _rest(kernel: Tensor, groups: Tensor) -> Tensor:
    """Similarities of what is left of the samples without the means of their groups."""
    sums, sizes = kernel @ groups, groups.sum(dim=0)
    averaging = groups / sizes.clamp(min=1e-9)
    means = averaging @ sums.T
    return kernel - means - means.T + averaging @ (groups.T @ sums) @ averaging.T


def _spread(kernel: Tensor, groups: Tensor) -> float:
    """Variance within groups, per dimension that the samples take up within them; above 0."""
    return _variance(kernel, groups) * _share(_rest(kernel, groups), groups)


def _variance(kernel: Tensor, groups: Tensor) -> float:
    own, sums, sizes = kernel.diagonal(), kernel @ groups, groups.sum(dim=0)
    pairs = sizes.square().sum() - groups.square().sum()
    shared = ((groups * sums).sum() - (groups.square() * own[:, None]).sum()) / pairs.clamp(min=1e-9)
    return float((own.mean() - shared).clamp(min=1e-9))


def _share(rest: Tensor, groups: Tensor) -> float:
    """Of the variance within groups that one dimension has."""
    # The participation ratio of so few samples is too low by what random ones would share (1/d + 1/n).
    shares = float(rest.square().sum() / rest.diagonal().sum().square().clamp(min=1e-30))
    return max(shares - 1 / _free(groups), _LEAST_SHARE)


def _fits(views: Sequence[Tensor], groups: Tensor) -> list[tuple[float, float, float]]:
    """Of each view of a source the variance within groups, its dimensions, and how often they are repeated."""
    rests = [_rest(view, groups) for view in views]
    dimensions = [1 / _share(rest, groups) for rest in rests]
    variances = [_variance(view, groups) for view in views]
    return list(zip(variances, dimensions, _repeats(rests, groups), strict=True))


def _repeats(rests: Sequence[Tensor], groups: Tensor) -> list[float]:
    """In how many of the views a view's rest is found: 1 if it is like no other's, as many as there are if all agree.

    The sum of its RV coefficients (Robert and Escoufier, 1976) with all, less what independent rests of so few samples
    have in common.
    """
    if len(rests) < 2:
        return [1.0] * len(rests)
    traces = [float(rest.diagonal().sum()) for rest in rests]
    # A rest's inner product with an independent one is that of their traces, spread over the free dimensions.
    squares = [float(rest.square().sum()) - trace**2 / _free(groups) for rest, trace in zip(rests, traces, strict=True)]
    lengths = [
        max(square, _LEAST_SHARE * trace**2, 1e-30) ** 0.5 for square, trace in zip(squares, traces, strict=True)
    ]
    mean = sum((rest / length for rest, length in zip(rests, lengths, strict=True)), torch.zeros_like(rests[0]))
    trace_of_all = sum(trace / length for trace, length in zip(traces, lengths, strict=True))
    repeats = []
    for rest, trace, square, length in zip(rests, traces, squares, lengths, strict=True):
        shared = (float((rest * mean).sum()) - trace * trace_of_all / _free(groups)) / length
        repeats.append(1 + max(shared - square / length**2, 0.0))
    return repeats


def _free(groups: Tensor) -> int:
    return max(len(groups) - groups.shape[1], 1)
