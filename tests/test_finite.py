from __future__ import annotations

import pytest
import torch

from benchmark.finite import all_finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_is_found_among_many(bad: float) -> None:
    tensor = torch.zeros(2, 3, 4)
    assert all_finite(tensor)
    tensor[1, 2, 3] = bad
    assert not all_finite(tensor)


def test_numbers_whose_sum_is_too_large_are_finite() -> None:
    assert all_finite(torch.full((4,), torch.finfo(torch.float32).max))


def test_infinities_that_cancel_are_found() -> None:
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))
