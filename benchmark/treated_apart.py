"""Whether a defense treats the images it is judged on unlike others: what it has learned by heart.

A defense that knows the test images, or the targets, can send something harmless for them and everything else as it
is. Images of the same distribution that nobody attacks are its undoing: what it changes of them must look alike.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.data import Part
    from benchmark.victim import Victim
    from defenses.base import Phase

PER_CLASS = 8
# Distortions that differ by less are equal: rounding must not order them.
DIGITS = 4


def treated_apart(victim: Victim, judged: Part, others: Part, phase: Phase) -> dict[str, float]:
    """Compare what a defense changes of some images with what it changes of others, class by class alike.

    An image's distortion is the norm of what the hooks of `phase` change of the head's output, over that output's
    norm. Images are sent in one batch. Two groups of one distribution have distortions of one distribution, whatever
    an honest defense does, so that the test of Mann and Whitney (1947) applies.

    Args:
        victim: On any device; not changed.
        judged: The images that count, any device.
        others: Images of the same distribution that do not; not empty.
        phase: Whose hooks send.

    Returns:
        `judged` and `others`: mean distortion of each, at least 0. `auc`: probability that one of the judged is
        distorted more than one of the others, ties half, in [0, 1]; .5 where they are treated alike. `p`: of the
        two-sided test, in [0, 1].
    """
    chosen = _alike(judged.labels.cpu(), others.labels.cpu())
    images = torch.cat([judged.images.to(victim.device), others.images[chosen].to(victim.device)])
    protection = copy.deepcopy(victim.protection).restarted("evidence", "treated apart", phase)
    with torch.no_grad():
        own = victim.split.head(images)
        sent = protection.activations(victim.split.head(protection.inputs(images, phase)), phase)
    changed = (sent - own).flatten(1).double().norm(dim=1)
    size = own.flatten(1).double().norm(dim=1)
    found = (changed / torch.where(size > 0, size, 1.0)).cpu().numpy().round(DIGITS)
    first, second = found[: len(judged)], found[len(judged) :]
    return {"judged": float(first.mean()), "others": float(second.mean()), **_rank_test(first, second)}


def _rank_test(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, float]:
    if (np.concatenate([first, second]) == first[0]).all():
        return {"auc": 0.5, "p": 1.0}
    # Where results are only read, the half second of this import would be most of the time.
    from scipy.stats import mannwhitneyu

    found = mannwhitneyu(first, second, alternative="two-sided", method="asymptotic")
    return {"auc": float(found.statistic) / (len(first) * len(second)), "p": float(found.pvalue)}


def _alike(judged: Tensor, others: Tensor) -> Tensor:
    """Positions of some of the others, of each class in proportion to the judged as far as there are any, int64."""
    times = max(1, -(-PER_CLASS // int(judged.bincount().max())))
    chosen = [
        (others == label).nonzero().flatten()[: times * int((judged == label).sum())] for label in judged.unique()
    ]
    return torch.cat(chosen)
