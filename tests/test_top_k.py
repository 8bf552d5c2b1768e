from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.seeds import Rng
from defenses.top_k import TopK
from tests.tiny_training import digits_split


def smashed(digits: Dataset, n: int = 64) -> torch.Tensor:
    return digits_split().head(digits.victim.images[:n]).detach()


def sent(z: torch.Tensor, share: float, phase: str = "inference") -> torch.Tensor:
    return TopK(share=share).protect_activations(z, Rng("unused"), phase)


@settings(deadline=None, max_examples=40)
@given(units=st.integers(1, 60), tenths=st.integers(1, 10), seed=st.integers(0, 99))
def test_so_many_units_of_each_sample_are_sent(units: int, tenths: int, seed: int) -> None:
    z = Rng("z", seed).normal((4, units))
    # Exact, in whole numbers: the smallest k with k / units of at least tenths / 10.
    expected = -(-tenths * units // 10)
    assert (sent(z, tenths / 10) != 0).sum(dim=1).tolist() == [expected] * 4


def test_the_largest_magnitudes_are_sent_as_they_are() -> None:
    z = torch.tensor([[0.1, -3.0, 2.0, 0.5, -0.2]])
    assert sent(z, 0.4).tolist() == [[0.0, -3.0, 2.0, 0.0, 0.0]]


def test_each_sample_chooses_for_itself(digits: Dataset) -> None:
    z = smashed(digits)
    louder = z * torch.linspace(1, 100, len(z)).view(-1, 1, 1, 1)
    assert torch.equal(sent(louder, 0.2) != 0, sent(z, 0.2) != 0)


def test_of_equal_magnitudes_the_first_are_sent() -> None:
    assert sent(torch.tensor([[1.0, -1.0, 1.0, -1.0]]), 0.5).tolist() == [[1.0, -1.0, 0.0, 0.0]]


def test_sending_all_is_the_identity(digits: Dataset) -> None:
    z = smashed(digits)
    assert torch.equal(sent(z, 1.0), z)


def test_training_and_inference_send_the_same(digits: Dataset) -> None:
    z = smashed(digits)
    assert torch.equal(sent(z, 0.3, "training"), sent(z, 0.3, "inference"))


def test_the_gradient_flows_through_the_units_that_are_sent() -> None:
    z = torch.tensor([[0.1, -3.0, 2.0, 0.5]], requires_grad=True)
    sent(z, 0.5, "training").sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_the_mask_is_made_on_the_datas_device(digits: Dataset) -> None:
    z = smashed(digits)
    with torch.device("meta"):
        assert sent(z, 0.3).device.type == "cpu"


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="top_k: parameter share="):
        TopK.configured({"share": share})
