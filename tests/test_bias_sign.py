from __future__ import annotations

import pytest
import torch

from attacks.bias_sign import BiasSign
from benchmark.data import Dataset
from benchmark.errors import NotGranted, UserError
from benchmark.view import Knowledge, Secrets, threat_model
from tests.observed_training import Observed, observe, only, run


@pytest.fixture(scope="module")
def one_by_one(digits: Dataset) -> Observed:
    return observe(digits, tail="fc2", batch_size=1, records=300, epochs=2)


@pytest.mark.parametrize("epoch", [0, -1])
def test_batches_of_one_tell_every_label_whatever_the_tail(one_by_one: Observed, epoch: int) -> None:
    assert one_by_one.accuracy_of(BiasSign(epoch=epoch)) == 1


def test_a_batch_tells_one_label_for_all(digits: Dataset) -> None:
    attack = BiasSign(epoch=0)
    view = observe(digits, epochs=1, batch_size=1000).view(attack)

    labels = run(attack, [view])[0].labels

    assert len(labels.unique()) == 1


def test_its_threat_model_is_its_own() -> None:
    assert threat_model(BiasSign().knowledge()) == "weight gradients"


def test_weight_gradients_must_be_declared(one_by_one: Observed) -> None:
    view = one_by_one.view(BiasSign(), granted=frozenset({Knowledge.ARCHITECTURE}))

    with pytest.raises(NotGranted, match="WEIGHT_GRADIENTS"):
        run(BiasSign(), [view])


def test_a_last_layer_without_a_bias_is_refused(one_by_one: Observed) -> None:
    view = one_by_one.view(BiasSign())
    without = {name: g for name, g in view.weight_gradients.items() if name.endswith("weight")}

    with pytest.raises(UserError, match=r"'fc3.weight' has shape \(10, 84\), not one entry for each of 10 classes"):
        run(BiasSign(), [only(view, _secrets=Secrets(weight_gradients=without))])


def test_tensors_are_made_on_the_views_device_and_views_stay_as_they_were(one_by_one: Observed) -> None:
    view = one_by_one.view(BiasSign())
    before = view.weight_gradients["fc3.bias"].clone()

    with torch.device("meta"):
        labels = run(BiasSign(), [view])[0].labels

    assert labels.device.type == "cpu"
    assert torch.equal(view.weight_gradients["fc3.bias"], before)
