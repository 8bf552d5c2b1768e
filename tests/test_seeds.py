from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.seeds import Rng, isolated, seed_of


@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4))
def test_streams_of_one_name_give_the_same_numbers(name: list[object]) -> None:
    assert torch.equal(Rng(*name).normal((3,)), Rng(*name).normal((3,)))


def test_streams_of_different_names_give_different_numbers() -> None:
    assert not torch.equal(Rng("a", 1).normal((3,)), Rng("a", 2).normal((3,)))


def test_drawing_from_a_child_leaves_its_parent_untouched() -> None:
    parent, alone = Rng("a"), Rng("a")
    parent.child("b").normal((5,))
    assert torch.equal(parent.normal((3,)), alone.normal((3,)))


def test_a_seed_fits_the_generators_of_torch() -> None:
    assert 0 <= seed_of("x") < 2**63


def test_laplace_numbers_have_variance_two() -> None:
    draws = Rng("laplace").laplace((200_000,))
    assert math.isclose(float(draws.var()), 2.0, rel_tol=0.03)


def test_numbers_are_drawn_on_the_cpu_whatever_the_default_device() -> None:
    plain = Rng("a").normal((3,))
    with torch.device("meta"):
        elsewhere = Rng("a").normal((3,), device="cpu")
    assert torch.equal(plain, elsewhere)


def test_an_isolated_block_restores_the_global_stream() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with isolated(Rng("a")):
        torch.rand(7)
    assert torch.equal(torch.rand(1), expected)
