from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import UserError
from benchmark.protection import Protection
from benchmark.seeds import Rng
from defenses.label_randomised_response import LabelRandomisedResponse

N = 40_000


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_a_label_is_kept_with_the_stated_probability_and_else_any_other(epsilon: float) -> None:
    truth = torch.full((N,), 3)

    answers = LabelRandomisedResponse(epsilon=epsilon).protect_labels(truth, 5, Rng("rr"))

    keep = math.exp(epsilon) / (math.exp(epsilon) + 4)
    expected = torch.full((5,), (1 - keep) / 4)
    expected[3] = keep
    shares = torch.bincount(answers, minlength=5) / N
    # Five standard deviations of a share.
    torch.testing.assert_close(shares, expected, atol=5 * 0.5 / math.sqrt(N), rtol=0)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_no_answer_is_more_than_e_to_the_epsilon_likelier_for_one_label_than_for_another(epsilon: float) -> None:
    defense = LabelRandomisedResponse(epsilon=epsilon)
    shares = torch.stack(
        [torch.bincount(defense.protect_labels(torch.full((N,), y), 3, Rng("y", y)), minlength=3) / N for y in range(3)]
    )

    worst = (shares.amax(dim=0) / shares.amin(dim=0)).max()

    assert worst == pytest.approx(math.exp(epsilon), rel=0.1)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.floats(800, 1e6))
def test_without_strength_every_label_is_kept(labels: list[int], epsilon: float) -> None:
    truth = torch.tensor(labels)

    assert torch.equal(LabelRandomisedResponse(epsilon=epsilon).protect_labels(truth, 10, Rng("rr")), truth)


def test_a_single_class_has_no_other_label() -> None:
    truth = torch.zeros(5, dtype=torch.int64)

    assert torch.equal(LabelRandomisedResponse(epsilon=0).protect_labels(truth, 1, Rng("rr")), truth)


def test_the_claim_is_pure_and_for_one_release_of_one_record() -> None:
    [claim] = LabelRandomisedResponse(epsilon=2.5).privacy()

    assert (claim.view, claim.epsilon, claim.delta, claim.releases) == ("labels", 2.5, 0.0, 1)
    assert claim.adjacency == "replace-one"


def test_the_same_stream_gives_the_same_labels() -> None:
    truth = Rng("labels").integers(10, (100,))
    defenses = [LabelRandomisedResponse()]

    first, second = (Protection(defenses, Rng("noise")).labels(truth, 10) for _ in range(2))

    assert torch.equal(first, second)


def test_a_negative_epsilon_is_refused() -> None:
    with pytest.raises(UserError, match="label_randomised_response: parameter epsilon=-1"):
        LabelRandomisedResponse.configured({"epsilon": -1})


def test_labels_are_made_on_their_own_device() -> None:
    truth = Rng("labels").integers(10, (100,))

    with torch.device("meta"):
        answers = Protection([LabelRandomisedResponse()], Rng("noise")).labels(truth, 10)

    assert answers.device.type == "cpu"
