from __future__ import annotations

from contextlib import suppress
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from benchmark.data import Dataset
from benchmark.metrics.evaluating import evaluating, evaluating_fast
from benchmark.models import mnist_net, network
from benchmark.seeds import Rng

SHAPE = (1, 28, 28)


def test_evaluating_restores_the_modes_also_after_an_error() -> None:
    module = nn.Dropout()
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(module):
        raise RuntimeError("on purpose")
    assert module.training


@pytest.mark.parametrize("error", [False, True])
def test_weights_lie_as_before_when_a_fast_evaluation_ends(error: bool) -> None:
    module = network(mnist_net, SHAPE, 10, Rng("victim"))
    before = [(weight, weight.data_ptr(), weight.stride()) for weight in module.parameters()]
    with suppress(RuntimeError), evaluating_fast(module):
        assert module.conv2.weight.is_contiguous(memory_format=torch.channels_last)
        if error:
            raise RuntimeError("on purpose")
    assert [(weight, weight.data_ptr(), weight.stride()) for weight in module.parameters()] == before


def test_a_fast_evaluation_gives_the_same_logits(digits: Dataset) -> None:
    module = network(mnist_net, SHAPE, 10, Rng("victim"))
    images = digits.test.images[:100]
    with torch.no_grad():
        slow = module(images)
        with evaluating_fast(module):
            torch.testing.assert_close(module(images), slow, rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [False, True])
def test_a_module_is_called_as_before_when_a_fast_evaluation_ends(error: bool) -> None:
    module = network(mnist_net, SHAPE, 10, Rng("victim"))
    before = module.forward
    with suppress(RuntimeError), evaluating_fast(module):
        assert module.forward != before
        if error:
            raise RuntimeError("on purpose")
    assert module.forward == before


def test_a_fast_evaluation_within_another_changes_nothing(digits: Dataset) -> None:
    module = network(mnist_net, SHAPE, 10, Rng("victim"))
    images = digits.test.images[:20]
    with torch.no_grad(), evaluating_fast(module):
        before = module(images)
        with evaluating_fast(module):
            pass
        assert torch.equal(module(images), before)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("between", [[], [nn.ReLU()]], ids=["bare", "rectified"])
def test_a_convolution_and_its_pooling_give_the_same_at_once(
    digits: Dataset, between: list[nn.Module], padding: int, bias: bool
) -> None:
    torch.manual_seed(0)
    # 27 rows: with this kernel and no padding a last row fills no window.
    images = digits.test.images[:20, :, :27]
    head = nn.Sequential(nn.Conv2d(1, 8, 5, padding=padding, bias=bias), *between, nn.MaxPool2d(2))
    with torch.no_grad():
        slow = head(images)
        with evaluating_fast(head):
            torch.testing.assert_close(head(images), slow, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_kind_of_padding_is_kept(
    digits: Dataset, mode: Literal["zeros", "reflect", "replicate", "circular"]
) -> None:
    torch.manual_seed(0)
    images = digits.test.images[:20]
    head = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2, padding_mode=mode), nn.ReLU(), nn.MaxPool2d(2))
    with torch.no_grad():
        slow = head(images)
        with evaluating_fast(head):
            torch.testing.assert_close(head(images), slow, rtol=0, atol=1e-6)


def test_a_layer_that_somebody_listens_to_is_still_called(digits: Dataset) -> None:
    head = nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2))
    heard: list[tuple[int, ...]] = []

    def listen(module: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        heard.append(tuple(out.shape))

    head[1].register_forward_hook(listen)
    with torch.no_grad(), evaluating_fast(head):
        head(digits.test.images[:3])
    assert heard == [(3, 8, 24, 24)]


def test_a_layer_that_counts_on_its_layout_keeps_it(digits: Dataset) -> None:
    class Viewed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(len(x), -1)

    module = nn.Sequential(nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), Viewed())
    with torch.no_grad(), evaluating_fast(module):
        assert module(digits.test.images[:3]).shape == (3, 1152)
