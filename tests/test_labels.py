from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.errors import PluginError
from benchmark.metrics.labels import (
    Space,
    accuracy_without_gradient,
    advantage,
    cosines,
    group_labels,
    label_controls,
    label_scores,
    similarity_to_all,
)
from benchmark.seeds import Rng

ACROSS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
TRUTH = torch.tensor([0, 1, 1, 1])
TELLING = torch.tensor([[[2.0, 0.1], [0.1, 2.0], [0.0, 9.0], [0.1, 0.3]]])
SILENT = torch.ones_like(TELLING)
KNOWN = torch.tensor([0, 1])


def test_each_target_scores_one_or_zero() -> None:
    assert label_scores(torch.tensor([3, 1, 2]), torch.tensor([3, 2, 2])) == {"correct": [1.0, 0.0, 1.0]}


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(PluginError, match="shape \\(2,\\) for 3 targets"):
        label_scores(torch.tensor([3, 1]), torch.tensor([3, 2, 2]))


@pytest.mark.parametrize(
    ("accuracy", "control", "expected"), [(1, 0.6, 1), (0.6, 0.6, 0), (0.8, 0.6, 0.5), (0, 0.5, -1)]
)
def test_advantage_is_zero_at_the_control_and_one_at_perfection(
    accuracy: float, control: float, expected: float
) -> None:
    assert advantage(accuracy, control) == pytest.approx(expected)


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1))
def test_nothing_is_gained_over_a_perfect_control(accuracy: float) -> None:
    assert advantage(accuracy, 1.0) == 0


def test_chance_and_majority_need_no_known_labels() -> None:
    controls = label_controls(TRUTH, 10)

    assert controls == {"chance": {"accuracy": [0.1]}, "majority": {"accuracy": [0.75]}}


@pytest.mark.parametrize("spaces", [[TELLING], [TELLING, SILENT], [SILENT, TELLING]])
def test_without_gradients_the_better_space_counts(spaces: list[Tensor]) -> None:
    seen = [Space(space, ACROSS) for space in spaces]

    assert accuracy_without_gradient(TRUTH, 2, KNOWN, seen) == 1.0


def test_without_gradients_all_views_count_where_the_last_fails() -> None:
    seen = [Space(torch.cat([TELLING, SILENT]), ACROSS.expand(2, 2, 2))]

    assert accuracy_without_gradient(TRUTH, 2, KNOWN, seen) == 1.0


@pytest.mark.parametrize("defended", [TELLING, SILENT])
def test_the_control_is_that_of_the_server_that_knows_less(defended: Tensor) -> None:
    undefended = SILENT if defended is TELLING else TELLING

    known = [accuracy_without_gradient(TRUTH, 2, KNOWN, [Space(space, ACROSS)]) for space in (defended, undefended)]

    controls = label_controls(TRUTH, 2, known)

    least = accuracy_without_gradient(TRUTH, 2, KNOWN, [Space(SILENT, ACROSS)])
    assert least < 1.0
    assert controls["known_labels_no_gradient"] == {"accuracy": [least]}


def test_cosines_are_those_of_the_definition() -> None:
    a, b = Rng("a").normal((3, 5, 2, 4)), Rng("b").normal((3, 6, 2, 4))

    expected = torch.nn.functional.cosine_similarity(a.flatten(2)[:, :, None], b.flatten(2)[:, None], dim=3)

    torch.testing.assert_close(cosines(a, b), expected.double(), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-38, 1e30))
def test_cosines_do_not_depend_on_scale(scale: float) -> None:
    rows = Rng("rows").normal((1, 4, 3)) + 2

    torch.testing.assert_close(cosines(rows * scale, rows), cosines(rows, rows), atol=1e-5, rtol=0)


def test_a_row_of_zeros_is_like_nothing() -> None:
    assert torch.equal(cosines(torch.zeros(1, 1, 2), ACROSS), torch.zeros(1, 1, 2, dtype=torch.float64))


def test_the_nearest_known_sample_gives_its_label() -> None:
    similarity = similarity_to_all(TELLING, ACROSS)

    assert group_labels(similarity, torch.tensor([7, 4]), 10, rounds=0).tolist() == [7, 4, 4, 4]


def test_a_target_between_two_known_samples_joins_the_group_it_is_most_like() -> None:
    # The last target is nearer to the known sample of class 0, but all of class 1 lies around it.
    degrees = torch.tensor([0.0, 5.0, 60.0, 55.0, 50.0, 44.0]).deg2rad()
    targets = torch.stack([degrees.cos(), degrees.sin()], dim=1)[None]
    similarity = similarity_to_all(targets, ACROSS)

    once, regrouped = (group_labels(similarity, torch.tensor([0, 1]), 2, rounds) for rounds in (0, 5))

    assert once.tolist() == [0, 0, 1, 1, 1, 0]
    assert regrouped.tolist() == [0, 0, 1, 1, 1, 1]


def test_a_class_without_known_samples_is_never_inferred() -> None:
    similarity = -torch.ones(3, 5)

    assert group_labels(similarity, torch.tensor([1, 2]), 4, rounds=3).unique().tolist() in ([1], [2], [1, 2])
