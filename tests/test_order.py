from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.order import blind_order

LABELS = torch.arange(10).repeat_interleave(20)


def shown(*name: object) -> Tensor:
    return LABELS[blind_order(torch.arange(200), 200, *name)]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 99), unique=True, max_size=40))
def test_the_same_samples_are_shown_and_fewer_keep_the_order_they_have_among_more(chosen: list[int]) -> None:
    every = blind_order(torch.arange(100), 100, "digest").tolist()

    some = blind_order(torch.tensor(chosen, dtype=torch.int64), 100, "digest").tolist()

    assert some == [position for position in every if position in set(chosen)]


def test_the_order_depends_on_every_part_of_the_name() -> None:
    orders = [shown("a", "rule", phase).tolist() for phase in ("training", "inference")] + [shown("b").tolist()]

    assert orders[0] == shown("a", "rule", "training").tolist()
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(
    "guess",
    [
        lambda i: i // 20,
        lambda i: i % 10,
        lambda i: 9 - i // 20,
        lambda i: (i + 1) // 20 % 10,
    ],
)
def test_no_reading_of_the_position_guesses_labels_better_than_chance(guess: Callable[[Tensor], Tensor]) -> None:
    places = torch.arange(200)

    rates = [float((shown("digest", number) == guess(places)).double().mean()) for number in range(50)]

    # Each rate's standard deviation is about .021, their mean's .003.
    assert 0.09 < sum(rates) / 50 < 0.11
    assert max(rates) < 0.2


def test_neighbours_share_a_label_as_often_as_any_two_samples_do() -> None:
    together = [float((shown("digest", n)[1:] == shown("digest", n)[:-1]).double().mean()) for n in range(50)]

    assert 0.08 < sum(together) / 50 < 0.11


def test_the_order_is_made_on_the_positions_own_device() -> None:
    with torch.device("meta"):
        order = blind_order(torch.arange(4, device="cpu"), 4, "digest")

    assert order.device.type == "cpu"
