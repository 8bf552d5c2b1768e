from __future__ import annotations

import pytest
import torch

from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.seeds import Rng
from defenses.dropout import Dropout
from tests.tiny_training import digits_split


def smashed(digits: Dataset, n: int = 64) -> torch.Tensor:
    return digits_split().head(digits.victim.images[:n]).detach()


@pytest.mark.parametrize("rate", [0.1, 0.6, 0.9])
@pytest.mark.parametrize("phase", ["training", "inference"])
def test_the_share_asked_for_is_dropped_in_both_phases(rate: float, phase: str) -> None:
    sent = Dropout(rate=rate).protect_activations(torch.ones(100, 1000), Rng("mask"), phase)
    assert (sent == 0).double().mean().item() == pytest.approx(rate, abs=0.01)


def test_what_is_sent_is_not_rescaled(digits: Dataset) -> None:
    z = smashed(digits)
    sent = Dropout().protect_activations(z, Rng("mask"), "inference")
    assert torch.equal(sent[sent != 0], z[sent != 0])


def test_a_rate_of_zero_is_the_identity(digits: Dataset) -> None:
    z = smashed(digits)
    assert torch.equal(Dropout(rate=0).protect_activations(z, Rng("mask"), "training"), z)


def test_every_sample_and_every_query_has_a_mask_of_its_own() -> None:
    rng, z = Rng("mask"), torch.ones(8, 1000)
    masks = torch.cat([Dropout().protect_activations(z, rng, "inference") for _ in range(2)])
    agreement = (masks @ masks.T) / 1000
    # Two independent masks share 0.4 * 0.4 of their units.
    assert agreement[~torch.eye(16, dtype=torch.bool)].max().item() < 0.25


def test_the_gradient_flows_through_the_units_that_are_sent(digits: Dataset) -> None:
    z = smashed(digits).requires_grad_(True)
    sent = Dropout().protect_activations(z, Rng("mask"), "training")
    sent.sum().backward()
    kept = Rng("mask").uniform_like(z) >= 0.6
    assert z.grad is not None
    assert torch.equal(z.grad, kept.to(z.dtype))


def test_the_mask_is_made_on_the_datas_device(digits: Dataset) -> None:
    z = smashed(digits)
    with torch.device("meta"):
        assert Dropout().protect_activations(z, Rng("mask"), "training").device.type == "cpu"


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="dropout: parameter rate="):
        Dropout.configured({"rate": rate})
