from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.bias_sign import BiasSign
from attacks.label_matching import LabelMatching
from benchmark.models import ImageShape
from benchmark.view import Knowledge, Secrets, ServerView
from tests.observed_training import run

GOLDEN = Path(__file__).parent / "golden" / "label_inference_mnist.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def tail(golden: dict[str, Tensor], whose: str) -> nn.Linear:
    layer = nn.Linear(84, 10)
    layer.load_state_dict({name: golden[f"{whose}_tail.{name}"] for name in ("weight", "bias")})
    return layer


def view(golden: dict[str, Tensor]) -> ServerView:
    """What the published code's run saw; a new network's tail is the clone that run began with."""

    def factory(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
        return OrderedDict(flatten=nn.Flatten(), pass_on=nn.Identity(), fc3=tail(golden, "clone"))

    outputs = golden["body_output"][None]
    return ServerView(
        smashed=outputs,
        phase="training",
        topology="u_shaped",
        image_shape=(1, 28, 28),
        n_classes=10,
        cut="flatten",
        tail_name="fc3",
        body=nn.Identity(),
        body_outputs=outputs,
        cut_gradients=golden["cut_gradient"][None],
        labels=None,
        _factory=factory,
        _granted=frozenset({Knowledge.ARCHITECTURE, Knowledge.WEIGHT_GRADIENTS}),
        _secrets=Secrets(weight_gradients=gradients(golden)),
    )


def gradients(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    client = tail(golden, "client")
    biases = []
    for output, label in zip(golden["body_output"], golden["labels"], strict=True):
        client.zero_grad()
        F.cross_entropy(client(output[None]), label[None]).backward()
        assert client.bias.grad is not None
        biases.append(client.bias.grad.clone())
    return {"fc3.weight": golden["weight_gradient"][None], "fc3.bias": torch.stack(biases)[None]}


@pytest.mark.parametrize("lanes", [1, 3])
def test_the_weight_gradient_gives_what_the_published_code_inferred(golden: dict[str, Tensor], lanes: int) -> None:
    findings = run(LabelMatching(), [view(golden)] * lanes)

    assert len(findings) == lanes
    for finding in findings:
        assert torch.equal(finding.labels, golden["inferred"])


def test_the_closed_form_gives_the_labels_without_a_clone(golden: dict[str, Tensor]) -> None:
    assert torch.equal(run(BiasSign(), [view(golden)])[0].labels, golden["labels"])


def test_the_gradient_that_a_server_is_sent_does_not_give_them(golden: dict[str, Tensor]) -> None:
    inferred = run(LabelMatching(observes="cut_gradient"), [view(golden)])[0].labels

    assert (inferred == golden["labels"]).double().mean() <= 0.3
