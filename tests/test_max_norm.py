from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmark.protection import Protection
from benchmark.seeds import Rng
from defenses.max_norm import MaxNorm

# As where positives are rare: their gradients are the long ones (Li et al., 2021).
LABELS = (torch.arange(1000) < 100).long()


def rows() -> Tensor:
    directions = torch.nn.functional.normalize(Rng("directions").normal((1000, 84)), dim=1)
    lengths = torch.where(LABELS == 1, 1.0, 0.1) * (1 + 0.2 * Rng("lengths").uniform((1000,)))
    return directions * lengths[:, None]


def protected(g: Tensor, *stream: object) -> Tensor:
    return Protection([MaxNorm()], Rng("max norm", *stream)).gradients(g, torch.zeros(len(g), dtype=torch.int64))


def norm_auc(g: Tensor) -> float:
    auc = float(roc_auc_score(LABELS, g.norm(dim=1)))
    return max(auc, 1 - auc)


def test_the_norm_no_longer_tells_the_label() -> None:
    assert norm_auc(rows()) == 1
    assert norm_auc(protected(rows())) < 0.65


def test_one_isotropic_draw_a_coordinate_would_still_tell_it() -> None:
    # The fault this guards against: noise of standard deviation sigma_j on each coordinate instead of one factor a row.
    g = rows()
    sigma = (g.norm(dim=1).max().square() / g.norm(dim=1).square() - 1).sqrt()

    assert norm_auc(g + sigma[:, None] * Rng("isotropic").normal_like(g)) > 0.95


def test_every_row_has_the_largest_expected_squared_norm() -> None:
    g = rows()[90:110].repeat(2000, 1, 1)

    squares = torch.stack([protected(sample, index).square().sum(dim=1) for index, sample in enumerate(g)])

    largest = g[0].norm(dim=1).max().square()
    # The mean of 2 000 chi-square numbers has a standard deviation of 3 %.
    torch.testing.assert_close(squares.mean(dim=0), largest.expand(20), rtol=0.17, atol=0)


def test_each_row_keeps_its_line() -> None:
    g = rows()

    cosine = torch.nn.functional.cosine_similarity(g, protected(g), dim=1)

    torch.testing.assert_close(cosine.abs(), torch.ones(1000))
    assert (cosine < 0).any()


def test_rows_of_the_largest_norm_stay() -> None:
    g = torch.nn.functional.normalize(rows(), dim=1)

    torch.testing.assert_close(protected(g), g, atol=1e-2, rtol=0)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-30, 1e10), st.floats(1e-30, 1e10))
def test_rows_of_any_length_stay_finite(first: float, second: float) -> None:
    g = torch.tensor([[first, 0.0], [0.0, second], [0.0, 0.0]])

    result = protected(g)

    assert result.isfinite().all()
    assert torch.equal(result[2], g[2])


def test_batches_of_zeros_stay_zero() -> None:
    assert torch.equal(protected(torch.zeros(3, 2, 2)), torch.zeros(3, 2, 2))


@pytest.mark.parametrize("shape", [(4, 84), (4, 8, 3, 3)])
def test_shape_device_and_type_stay_under_another_default_device(shape: tuple[int, ...]) -> None:
    g = Rng("g").normal(shape)

    with torch.device("meta"):
        result = protected(g)

    assert (result.shape, result.dtype, result.device) == (g.shape, g.dtype, g.device)


def test_it_says_that_it_couples_samples() -> None:
    assert MaxNorm().couples_samples
