from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Budget
from attacks.label_matching import LabelMatching
from benchmark.data import Dataset
from benchmark.errors import NotGranted, UserError
from benchmark.models import ImageShape, mnist_net
from benchmark.view import Knowledge, ServerView
from tests.observed_training import Observed, observe, only, run


@pytest.fixture(scope="module")
def one_by_one(digits: Dataset) -> Observed:
    return observe(digits, batch_size=1, records=1000, epochs=1)


@pytest.fixture(scope="module")
def in_batches(digits: Dataset) -> Observed:
    return observe(digits, tail="fc2")


def knowing_the_tail(view: ServerView) -> ServerView:
    """The same view for an attacker whose clone starts from a tail that answers the body output's largest entries.

    Its client has that very tail: the rows it sends are made here.
    """

    def factory(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
        modules = mnist_net(image_shape, n_classes)
        with torch.no_grad():
            modules["fc3"].weight.copy_(torch.eye(10, 84))
        return modules

    return only(view, _factory=factory)


def sent_by(view: ServerView, labels: Tensor, batch_size: int) -> Tensor:
    outputs = view.body_outputs[0].clone().requires_grad_()
    client = view.new_tail(view.rng("clone of the tail"))
    for start in range(0, len(labels), batch_size):
        batch = slice(start, start + batch_size)
        F.cross_entropy(client(outputs[batch]), labels[batch]).backward()
    return outputs.grad[None]


def test_the_published_rule_loses_a_trained_tail_that_the_cosine_still_reads(one_by_one: Observed) -> None:
    published = one_by_one.accuracy_of(LabelMatching())
    cosine = one_by_one.accuracy_of(LabelMatching(distance="cosine"))

    assert published < 0.8
    assert cosine >= 0.95


def test_in_a_batch_the_mean_weight_gradient_tells_little(in_batches: Observed) -> None:
    assert in_batches.accuracy_of(LabelMatching()) < 0.4


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_a_cut_gradient_needs_the_clients_own_tail(in_batches: Observed, distance: str) -> None:
    attack = LabelMatching.configured({"observes": "cut_gradient", "distance": distance, "clone_learning_rate": 0.0})
    view = only(in_batches.view(attack), tail_name="fc2act", body_outputs=torch.rand(1, 100, 84))
    view = knowing_the_tail(view)
    rows = sent_by(view, in_batches.truth, batch_size=50)
    informed = only(view, cut_gradients=rows, batch_sizes=torch.full((1, 100), 50))
    ignorant = only(informed, _factory=mnist_net)

    right, guessed = (run(attack, [v])[0].labels == in_batches.truth for v in (informed, ignorant))

    assert right.all()
    assert guessed.double().mean() < 0.5


def test_a_row_of_the_sum_is_read_as_it_is(in_batches: Observed) -> None:
    attack = LabelMatching(observes="cut_gradient")
    view = in_batches.view(attack)
    summed = only(view, cut_gradients=view.cut_gradients * 50, loss_reduction="sum", batch_sizes=None)

    of_mean, of_sum = run(attack, [view, summed])

    assert torch.equal(of_mean.labels, of_sum.labels)


def test_lanes_agree_with_views_attacked_alone(one_by_one: Observed, in_batches: Observed) -> None:
    attack = LabelMatching(distance="cosine")
    view = one_by_one.view(attack)
    doubled = {name: gradient.flip(1) for name, gradient in view.weight_gradients.items()}
    reversed_view = only(
        view, body_outputs=view.body_outputs.flip(1), _secrets=replace(view._secrets, weight_gradients=doubled)
    )
    views = [view, reversed_view, view]

    together = run(attack, views)
    chunked = run(attack, views, Budget(memory=1))
    alone = [run(attack, [v])[0] for v in views]

    for first, second, third in zip(together, chunked, alone, strict=True):
        assert torch.equal(first.labels, third.labels)
        assert torch.equal(second.labels, third.labels)


def test_the_clone_learns_from_target_to_target(one_by_one: Observed) -> None:
    attack, frozen = LabelMatching(clone_learning_rate=0.01), LabelMatching(clone_learning_rate=0)
    view = one_by_one.view(attack)

    first, second = run(attack, [view])[0], run(frozen, [view])[0]

    assert first.labels[0] == second.labels[0]
    assert not torch.equal(first.labels, second.labels)
    assert (first.steps, second.steps) == (1, 0)


def test_progress_ends_at_one_and_never_falls(in_batches: Observed) -> None:
    attack = LabelMatching()
    seen: list[float] = []

    attack.run([in_batches.view(attack)] * 3, Budget(memory=1), seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


@pytest.mark.parametrize("observes", ["weight_gradient", "cut_gradient"])
def test_it_declares_weight_gradients_only_where_it_reads_them(observes: str) -> None:
    attack = LabelMatching.configured({"observes": observes})

    assert (Knowledge.WEIGHT_GRADIENTS in attack.knowledge()) == (observes == "weight_gradient")


def test_weight_gradients_must_be_declared(in_batches: Observed) -> None:
    view = in_batches.view(LabelMatching(), granted=LabelMatching(observes="cut_gradient").knowledge())

    with pytest.raises(NotGranted, match="WEIGHT_GRADIENTS"):
        run(LabelMatching(), [view])


def test_an_epoch_beyond_training_is_refused(in_batches: Observed) -> None:
    with pytest.raises(UserError, match="epoch=-4 is outside the 3 epochs"):
        run(LabelMatching(epoch=-4), [in_batches.view(LabelMatching())])


def test_a_tail_without_weights_is_refused(in_batches: Observed) -> None:
    def factory(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
        return OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(784, 10), out=nn.Identity())

    view = only(in_batches.view(LabelMatching()), _factory=factory, cut="flatten", tail_name="out")

    with pytest.raises(UserError, match="no parameters to clone"):
        run(LabelMatching(), [view])


@pytest.mark.parametrize("observes", ["weight_gradient", "cut_gradient"])
def test_tensors_are_made_on_the_views_device_and_views_stay_as_they_were(in_batches: Observed, observes: str) -> None:
    attack = LabelMatching.configured({"observes": observes})
    view = in_batches.view(attack)
    before = [view.cut_gradients.clone(), view.body_outputs.clone()]

    with torch.device("meta"):
        labels = run(attack, [view])[0].labels

    assert labels.device.type == "cpu"
    assert torch.equal(view.cut_gradients, before[0])
    assert torch.equal(view.body_outputs, before[1])
