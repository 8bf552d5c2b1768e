from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data import Dataset
from benchmark.errors import PluginError
from benchmark.models import Split, mnist_net, network, split
from benchmark.protection import Protection
from benchmark.protocol import Message, Step, Training, Wire, batches, split_step
from benchmark.seeds import Rng
from defenses.base import Defense, Phase

CUTS = ("conv1", "pool1", "pool2", "fc1")


def fresh() -> nn.Sequential:
    return network(mnist_net, (1, 28, 28), 10, Rng("protocol"))


def training_of(parts: Split, n: int = 32, **changes: object) -> Training:
    optimisers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(part.parameters(), lr=0.1)
        for name, part in parts.parts().items()
        if list(part.parameters())
    }
    settings = {"n_records": n, "batch_size": 8, "epochs": 1, "rng": Rng("p"), **changes}
    return Training(parts.head, parts.body, parts.tail, optimisers, **settings)  # type: ignore[arg-type]


def batch(digits: Dataset, n: int = 16) -> Step:
    part = digits.victim
    return Step(part.images[:n], part.labels[:n], torch.arange(n), epoch=0, number=0)


def unprotected() -> Protection:
    return Protection([], Rng("noise"))


@pytest.mark.parametrize("tail", [None, "fc3", "fc2"])
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_of_a_split_step_equal_those_of_the_unsplit_network(
    digits: Dataset, cut: str, tail: str | None
) -> None:
    whole, parts = fresh(), fresh()
    step = batch(digits)
    F.cross_entropy(whole(step.x), step.y).backward()

    split_step(training_of(split(parts, cut, tail)), unprotected(), step, Wire())

    expected = dict(whole.named_parameters())
    for name, parameter in parts.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=0)


def run_with(digits: Dataset, observer: Callable[[Message], None] | None) -> list[Tensor]:
    received: list[Tensor] = []

    class Recording(Wire):
        def send(self, sender, what, tensor, ids, epoch):  # type: ignore[no-untyped-def]
            delivered = super().send(sender, what, tensor, ids, epoch)
            if sender == "server":
                received.append(delivered.clone())
            return delivered

    training = training_of(split(fresh(), "pool1", "fc3"))
    for _ in range(5):
        split_step(training, unprotected(), batch(digits), Recording(observer))
    return received


def test_what_the_client_receives_is_byte_identical_with_an_attack_beside_it(digits: Dataset) -> None:
    clone = split(network(mnist_net, (1, 28, 28), 10, Rng("clone")), "pool1").head
    guess = torch.full((16, 1, 28, 28), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([guess, *clone.parameters()], lr=1e-3)

    def attack(message: Message) -> None:
        if message.what == "smashed":
            torch.rand(10)
            optimiser.zero_grad()
            F.mse_loss(clone(guess), message.tensor).backward()
            optimiser.step()
            message.tensor.zero_()

    alone, attacked = run_with(digits, None), run_with(digits, attack)
    assert len(alone) == 10
    assert all(torch.equal(a, b) for a, b in zip(alone, attacked, strict=True))


def messages_of(digits: Dataset, tail: str | None) -> list[Message]:
    seen: list[Message] = []
    split_step(training_of(split(fresh(), "pool1", tail)), unprotected(), batch(digits), Wire(seen.append))
    return seen


def test_labels_cross_the_wire_only_in_the_vanilla_topology(digits: Dataset) -> None:
    assert [m.what for m in messages_of(digits, None)] == ["smashed", "labels", "input_gradient"]
    assert [m.what for m in messages_of(digits, "fc3")] == ["smashed", "body_output", "cut_gradient", "input_gradient"]


def test_nothing_on_the_wire_carries_a_gradient(digits: Dataset) -> None:
    assert not any(message.tensor.requires_grad for message in messages_of(digits, "fc3"))


def test_rows_of_the_cut_gradient_are_those_of_the_mean_loss(digits: Dataset) -> None:
    seen = messages_of(digits, "fc3")
    outputs, gradients = seen[1].tensor, seen[2].tensor
    tail = split(fresh(), "pool1", "fc3").tail
    assert tail is not None
    first = outputs[:1].clone().requires_grad_(True)
    F.cross_entropy(tail(first), digits.victim.labels[:1]).backward()
    assert first.grad is not None
    torch.testing.assert_close(gradients[:1], first.grad / 16, atol=1e-7, rtol=0)


def test_shuffled_batches_visit_every_record_once_an_epoch() -> None:
    training = training_of(split(fresh(), "pool1"), n=37)
    drawn = torch.cat(list(batches(training, Rng("order"))))
    assert torch.equal(drawn.sort().values, torch.arange(37))


def test_poisson_batches_draw_each_record_at_the_sampling_rate() -> None:
    training = training_of(split(fresh(), "pool1"), n=4000, sampling="poisson", batch_size=40)
    sizes = [len(ids) for ids in batches(training, Rng("order"))]
    assert len(sizes) == 100
    assert 36 < sum(sizes) / len(sizes) < 44


class Misbehaving(Defense):
    name = "misbehaving"
    side = "activations"
    how: str = "shape"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        wrong = {
            "shape": z[:, :1],
            "nan": z * float("nan"),
            "type": z.double(),
            "device": z.to("meta"),
            "nothing": None,
            "detached": z.detach(),
        }
        return wrong[self.how]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("shape", "keep the shape"),
        ("nan", "return finite numbers"),
        ("type", "keep the type"),
        ("device", "keep the device"),
        ("nothing", "return a tensor of shape"),
        ("detached", "cuts the gradient off"),
    ],
)
def test_a_defense_that_breaks_its_contract_is_named_in_one_sentence(digits: Dataset, how: str, sentence: str) -> None:
    protection = Protection([Misbehaving(how=how)], Rng("noise"))
    with pytest.raises(PluginError, match=f"defense misbehaving: protect_activations returned .*{sentence}"):
        split_step(training_of(split(fresh(), "pool1")), protection, batch(digits), Wire())


class Attached(Defense):
    name = "attached"
    side = "labels"

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        return g * torch.ones(1, requires_grad=True)


def test_a_cut_gradient_that_carries_a_gradient_is_refused(digits: Dataset) -> None:
    protection = Protection([Attached()], Rng("noise"))
    with pytest.raises(PluginError, match="carries a gradient; detach it"):
        split_step(training_of(split(fresh(), "pool1", "fc3")), protection, batch(digits), Wire())


class Trained(Defense):
    name = "trained"
    side = "activations"

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        with torch.enable_grad():
            return z * torch.ones(1, requires_grad=True)


def test_smashed_data_of_inference_that_carry_a_gradient_are_refused() -> None:
    protection = Protection([Trained()], Rng("noise"))
    with torch.no_grad(), pytest.raises(PluginError, match=r"protect_activations returned .* carries a gradient"):
        protection.activations(torch.ones(2, 3), "inference")


def test_smashed_data_of_training_may_depend_on_what_a_defense_learns() -> None:
    protection = Protection([Trained()], Rng("noise"))
    assert protection.activations(torch.ones(2, 3), "training").requires_grad


def test_an_attack_may_differentiate_through_a_defense() -> None:
    z = torch.ones(2, 3, requires_grad=True)
    assert Protection([Trained()], Rng("noise")).activations(z, "inference").requires_grad
