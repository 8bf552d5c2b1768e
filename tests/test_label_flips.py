from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.labels.flips import _predicted, labels_behind_flips
from benchmark.seeds import Rng

CLASSES, EACH = 6, 20
TRUTH = torch.arange(CLASSES).repeat(EACH)
KNOWN = torch.arange(CLASSES)
ALL = torch.cat([TRUTH, KNOWN])


def kernel(rows: Tensor) -> Tensor:
    return rows @ rows.T


def around(labels: Tensor, noise: float, *name: object) -> Tensor:
    rng = Rng(*name)
    centres = torch.linalg.qr(rng.normal((16, CLASSES)))[0].T
    return centres.double()[labels] + noise * rng.normal((len(labels), 16)).double()


def randomised(epsilon: float, seed: int) -> tuple[Tensor, Tensor]:
    """Flip rates, and what each sample was trained as."""
    other = 1 / (math.exp(epsilon) + CLASSES - 1)
    rates = torch.full((CLASSES, CLASSES), other, dtype=torch.float64)
    rates.fill_diagonal_(math.exp(epsilon) * other)
    drawn = Rng("flips", seed).uniform((len(ALL), 1)).double()
    return rates, (rates.cumsum(dim=1)[ALL] < drawn).sum(dim=1).clamp(max=CLASSES - 1)


def right(labels: Tensor) -> float:
    return float((labels == TRUTH).double().mean())


def test_features_and_trained_labels_together_tell_more_than_either() -> None:
    both, alone, kept = [], [], []
    for seed in range(6):
        rates, trained = randomised(2.0, seed)
        features = [kernel(around(ALL, 0.35, "features", seed))]
        gradients = kernel(around(trained, 0.02, "gradients", seed))
        nothing = torch.full_like(rates, 1 / CLASSES)
        both.append(right(labels_behind_flips(features, gradients, None, KNOWN, rates, seed)))
        alone.append(right(labels_behind_flips(features, gradients, None, KNOWN, nothing, seed)))
        kept.append(right(trained[: len(TRUTH)]))

    assert sum(both) > sum(alone)
    assert sum(both) > sum(kept) + 1.5


def test_labels_exchanged_by_a_fixed_key_are_all_found() -> None:
    rates = one_hot((KNOWN + 2) % CLASSES, CLASSES).double()
    features = kernel(around(ALL, 0.4, "features"))
    gradients = kernel(around((ALL + 2) % CLASSES, 0.02, "gradients"))

    assert right(labels_behind_flips([features], gradients, None, KNOWN, rates, 0)) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_named_by_what_the_tail_predicts_where_flips_leave_them_without_a_name(seed: int) -> None:
    # Hardly more samples of a group have its label than any other.
    _, trained = randomised(0.3, seed)
    features = around(ALL, 0.3, "features", seed)
    centres = torch.linalg.qr(Rng("features", seed).normal((16, CLASSES)))[0].T.double()
    gradients = centres.mean(dim=0) - centres[trained]
    groups = one_hot(trained, CLASSES).double()

    predicted = _predicted(features[None], gradients[None], groups)

    assert (predicted.argmax(dim=1) == ALL).double().mean() > 0.8
