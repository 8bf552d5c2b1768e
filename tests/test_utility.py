from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.metrics.utility import (
    accuracy,
    head_flops,
    majority_accuracy,
    parameter_count,
    smashed_bytes,
    wire_bytes,
)
from benchmark.models import Split, mnist_net, network, split
from benchmark.parts import Part
from benchmark.protection import Protection
from benchmark.protocol import Message, Step, Training, Wire, split_step
from benchmark.seeds import Rng

SHAPE = (1, 28, 28)


def cut(at: str, tail: str | None = None) -> Split:
    return split(network(mnist_net, SHAPE, 10, Rng("victim")), at, tail)


def empty(part: Part) -> Part:
    return part.select(torch.arange(0, device="cpu"))


def test_accuracy_is_the_share_of_right_labels_whatever_the_batch(digits: Dataset) -> None:
    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[(x.flatten(1).sum(dim=1) / 20).long().clamp(0, 9)]

    expected = (predict(digits.test.images).argmax(1) == digits.test.labels).sum().item() / 1000
    assert 0 < expected < 1
    assert {accuracy(predict, digits.test, batch) for batch in (7, 500, 5000)} == {expected}


def test_accuracy_of_predictions_that_are_nan_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match="predicts NaN"):
        accuracy(lambda x: torch.full((len(x), 10), torch.nan, device="cpu"), digits.test)


@pytest.mark.parametrize("measure", [partial(accuracy, nn.Flatten()), majority_accuracy])
def test_nothing_is_measured_on_an_empty_part(measure: partial[float], digits: Dataset) -> None:
    with pytest.raises(UserError, match="empty part"):
        measure(empty(digits.test))


def test_the_majority_is_the_share_of_the_most_frequent_label(digits: Dataset) -> None:
    zeros, ones = ((digits.test.labels == label).nonzero().flatten() for label in (0, 1))
    assert majority_accuracy(digits.test.select(torch.cat([zeros[:3], ones[:5]]))) == 5 / 8


def test_the_published_network_has_its_number_of_weights() -> None:
    assert parameter_count(network(mnist_net, SHAPE, 10, Rng("victim")).requires_grad_(False)) == 45_278


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("conv1", 2 * 24 * 24 * 8 * 25),
        ("pool1", 2 * 24 * 24 * 8 * 25),
        ("pool2", 2 * (24 * 24 * 8 * 25 + 8 * 8 * 16 * 8 * 25)),
        ("fc1", 2 * (24 * 24 * 8 * 25 + 8 * 8 * 16 * 8 * 25 + 256 * 120)),
    ],
)
def test_the_heads_operations_are_two_for_each_multiply_add(at: str, expected: int) -> None:
    assert head_flops(cut(at).head, SHAPE) == expected


def test_measuring_a_head_changes_neither_its_mode_nor_its_running_statistics() -> None:
    head = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head_flops(head, SHAPE)
    assert [module.training for module in head] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_smashed_data_take_four_bytes_a_number() -> None:
    assert smashed_bytes(cut("pool1").head, SHAPE) == 8 * 12 * 12 * 4


@pytest.mark.parametrize(("at", "tail"), [("pool1", None), ("pool2", None), ("pool1", "fc3"), ("pool2", "fc1act")])
def test_wire_bytes_are_what_goes_over_the_wire_in_a_training_step(at: str, tail: str | None, digits: Dataset) -> None:
    parts = cut(at, tail)
    sent: list[Message] = []
    training = Training(
        parts.head, parts.body, parts.tail, {}, n_records=5, batch_size=5, epochs=1, rng=Rng("training")
    )
    batch = digits.victim.select(torch.arange(5, device="cpu"))
    step = Step(batch.images, batch.labels, torch.arange(5, device="cpu"), 0, 0)
    split_step(training, Protection([], Rng("protection")), step, Wire(sent.append))

    def measured(sender: str) -> int:
        return sum(m.tensor.numel() * m.tensor.element_size() for m in sent if m.sender == sender)

    up, down = wire_bytes(parts, SHAPE)
    assert (5 * up, 5 * down) == (measured("client"), measured("server"))
