from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.accounting import dp_sgd_epsilon
from benchmark.data import Dataset
from benchmark.errors import PluginError, UserError
from benchmark.models import Split, split
from benchmark.protection import Protection
from benchmark.protocol import Message, Training, Wire, split_step
from benchmark.seeds import Rng
from defenses.base import Defense, Side
from defenses.dp_sgd import DPSGD
from defenses.gaussian_noise import GaussianNoise
from tests.tiny_training import digits_split, run, started, step_of

SCOPES = ("joint", "separate", "client")
NOTHING = torch.empty(0, dtype=torch.int64)


def weights(training: Training) -> list[Tensor]:
    return [p.detach().clone() for part in training.parts().values() for p in training.unwrap(part).parameters()]


def parameters(training: Training) -> list[nn.Parameter]:
    return [parameter for part in training.parts().values() for parameter in part.parameters()]


@pytest.mark.parametrize("tail", [None, "fc3"])
def test_per_sample_gradients_across_the_cut_equal_those_of_a_loop(digits: Dataset, tail: str | None) -> None:
    training, protection = started(digits, digits_split(tail=tail), DPSGD(noise_multiplier=0.0))
    plain, ids = digits_split(tail=tail), torch.arange(6)
    split_step(training, protection, step_of(digits, ids), Wire())
    for row in ids.tolist():
        loss = F.cross_entropy(plain.evaluate(digits.victim.images[[row]]), digits.victim.labels[[row]])
        expected = torch.autograd.grad(loss, [p for part in plain.parts().values() for p in part.parameters()])
        for parameter, gradient in zip(parameters(training), expected, strict=True):
            torch.testing.assert_close(parameter.grad_sample[row], gradient, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("tail", [None, "fc3"])
def test_without_noise_and_clip_training_is_that_of_summed_losses_over_the_batch_size(
    digits: Dataset, scope: str, tail: str | None
) -> None:
    unbounded = DPSGD.configured({"scope": scope, "noise_multiplier": 0.0, "max_grad_norm": 1e9})
    private, protection = started(digits, digits_split(tail=tail), unbounded, adam=True)
    drawn = run(digits, private, protection)
    assert all(len(ids) for ids in drawn)

    ordinary, protection = started(digits, digits_split(tail=tail), adam=True)
    ordinary.sampling, ordinary.reduction = "poisson", "sum"
    run(digits, ordinary, protection)
    for got, expected in zip(weights(private), weights(ordinary), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def update_norms(digits: Dataset, scope: str, clip: float = 0.01) -> dict[str, float]:
    """Norm, a part, of the step that one sample makes: learning rate 1, batch size 1."""
    defense = DPSGD.configured({"scope": scope, "noise_multiplier": 0.0, "max_grad_norm": clip})
    training, protection = started(digits, digits_split(), defense, batch_size=1, learning_rate=1.0)
    before = weights(training)
    split_step(training, protection, step_of(digits, torch.tensor([3])), Wire())
    moved = [a - b for a, b in zip(weights(training), before, strict=True)]
    n_head = len(list(training.head.parameters()))
    return {"head": norm_of(moved[:n_head]), "body": norm_of(moved[n_head:])}


def norm_of(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def test_one_flat_clip_bounds_the_norm_over_all_parts(digits: Dataset) -> None:
    norms = update_norms(digits, "joint")
    assert math.hypot(norms["head"], norms["body"]) == pytest.approx(0.01, rel=1e-3)


def test_separate_clips_bound_each_part(digits: Dataset) -> None:
    assert update_norms(digits, "separate") == pytest.approx({"head": 0.01, "body": 0.01}, rel=1e-3)


def test_the_client_scope_leaves_the_server_unclipped(digits: Dataset) -> None:
    norms = update_norms(digits, "client")
    assert norms["head"] == pytest.approx(0.01, rel=1e-3)
    assert norms["body"] > 0.1


@pytest.mark.parametrize(("scope", "private"), [("joint", {"joint"}), ("client", {"client"})])
def test_a_tail_is_private_with_the_head(digits: Dataset, scope: str, private: set[str]) -> None:
    training, _ = started(digits, digits_split(tail="fc3"), DPSGD.configured({"scope": scope}))
    assert training.private == private
    assert set(training.optimisers) == (private if scope == "joint" else private | {"body"})


@pytest.mark.parametrize("scope", SCOPES)
def test_an_empty_batch_steps_with_noise_and_is_counted(digits: Dataset, scope: str) -> None:
    defense = DPSGD.configured({"scope": scope, "noise_multiplier": 2.0, "max_grad_norm": 3.0})
    training, protection = started(digits, digits_split(), defense, batch_size=4, learning_rate=1.0)
    before = weights(training)
    split_step(training, protection, step_of(digits, NOTHING), Wire())
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(training), before, strict=True)])
    private = moved[: sum(p.numel() for p in training.head.parameters())] if scope == "client" else moved
    assert private.std().item() == pytest.approx(2.0 * 3.0 / 4, rel=0.15 if scope == "client" else 0.02)
    assert int(defense.state["steps"]) == 1


def test_nothing_goes_over_the_wire_for_an_empty_batch(digits: Dataset) -> None:
    training, protection = started(digits, digits_split(), DPSGD())
    seen: list[Message] = []
    split_step(training, protection, step_of(digits, NOTHING), Wire(seen.append))
    assert seen == []


def test_every_poisson_batch_is_a_step(digits: Dataset) -> None:
    defense = DPSGD()
    training, protection = started(digits, digits_split(), defense, n=32, batch_size=1, epochs=1)
    drawn = run(digits, training, protection)
    assert any(len(ids) == 0 for ids in drawn)
    assert int(defense.state["steps"]) == len(drawn) == 32


def test_two_runs_with_one_seed_are_equal_and_noisy(digits: Dataset) -> None:
    outcomes = []
    for noise in (1.0, 1.0, 0.0):
        training, protection = started(digits, digits_split(), DPSGD(noise_multiplier=noise))
        run(digits, training, protection)
        outcomes.append(torch.cat([w.flatten() for w in weights(training)]))
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.allclose(outcomes[0], outcomes[2], atol=1e-3)


def test_parts_get_noise_of_their_own(digits: Dataset) -> None:
    training, protection = started(
        digits, digits_split("conv1", "fc3"), DPSGD(scope="separate"), batch_size=1, learning_rate=1.0
    )
    before = weights(training)
    split_step(training, protection, step_of(digits, NOTHING), Wire())
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(training), before, strict=True)])
    assert len(moved.unique()) > 0.99 * len(moved)


def test_an_unwrapped_part_carries_weights_and_gradients_but_no_hooks(digits: Dataset) -> None:
    training, protection = started(digits, digits_split(), DPSGD())
    run(digits, training, protection)
    plain = training.unwrap(training.head)
    assert list(plain.state_dict()) == list(digits_split().head.state_dict())
    for module in plain.modules():
        assert not [*module._forward_hooks, *module._backward_hooks, *module._forward_pre_hooks]
        assert not hasattr(module, "activations")
    for own, trained in zip(plain.parameters(), training.head.parameters(), strict=True):
        assert not hasattr(own, "grad_sample")
        assert torch.equal(own, trained)
        assert torch.equal(own.grad, trained.grad)


def test_training_goes_on_after_a_part_was_unwrapped(digits: Dataset) -> None:
    outcomes = []
    for looked_at in (False, True):
        training, protection = started(digits, digits_split(), DPSGD())
        if looked_at:
            training.unwrap(training.head)(digits.victim.images[:3]).sum().backward()
        run(digits, training, protection)
        outcomes.append(weights(training))
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def test_nothing_is_made_on_the_default_device(digits: Dataset) -> None:
    with torch.device("meta"):
        training, protection = started(digits, digits_split(), DPSGD(), epochs=1)
        split_step(training, protection, step_of(digits, torch.arange(4, device="cpu")), Wire())
        split_step(training, protection, step_of(digits, torch.arange(0, device="cpu")), Wire())
        assert {p.device.type for p in training.unwrap(training.head).parameters()} == {"cpu"}


class Centred(nn.Module):
    """Subtracts the batch's mean: mixes samples, and no list of known modules has it."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def with_module(module: nn.Module, before: str) -> Split:
    modules = OrderedDict[str, nn.Module]()
    whole = digits_split()
    for name, inner in [*whole.head.named_children(), *whole.body.named_children()]:
        if name == before:
            modules["extra"] = module
        modules[name] = inner
    return split(nn.Sequential(modules), "pool1")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("module", "before", "where"),
    [
        (nn.BatchNorm2d(16), "relu2", r"'extra' \(BatchNorm2d\) of the body"),
        (nn.BatchNorm1d(84, affine=False), "fc3", r"'extra' \(BatchNorm1d\) of the body"),
        (nn.BatchNorm2d(8), "relu1", r"'extra' \(BatchNorm2d\) of the head"),
        (nn.InstanceNorm2d(8, track_running_stats=True), "relu1", r"'extra' \(InstanceNorm2d\) of the head"),
        (Centred(), "fc2", r"'extra' \(Centred\) of the body"),
    ],
)
def test_a_module_that_mixes_samples_is_refused_in_every_part(
    digits: Dataset, scope: str, module: nn.Module, before: str, where: str
) -> None:
    with pytest.raises(UserError, match=f"dp_sgd: module {where} mixes the samples of a batch.*GroupNorm"):
        started(digits, with_module(module, before), DPSGD.configured({"scope": scope}))


@pytest.mark.parametrize("module", [nn.GroupNorm(2, 8), nn.Dropout(), nn.InstanceNorm2d(8, affine=True)])
def test_a_module_that_treats_every_sample_alone_is_accepted(digits: Dataset, module: nn.Module) -> None:
    training, protection = started(digits, with_module(module, "relu1"), DPSGD(), epochs=1)
    split_step(training, protection, step_of(digits, torch.arange(4)), Wire())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(84, 84, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.unsqueeze(1))[0].squeeze(1)


def test_a_module_without_per_sample_gradients_is_refused_where_it_is_private(digits: Dataset) -> None:
    with pytest.raises(UserError, match=r"no per-sample gradients of module 'extra.lstm' \(LSTM\) of the body.*DPLSTM"):
        started(digits, with_module(Recurrent(), "fc3"), DPSGD())
    training, _ = started(digits, with_module(Recurrent(), "fc3"), DPSGD(scope="client"))
    assert training.private == {"client"}


class Coupling(Defense):
    name: ClassVar[str] = "coupling"
    side: ClassVar[Side] = "activations"
    couples_samples: ClassVar[bool] = True


class ExtraLoss(Defense):
    name: ClassVar[str] = "extra_loss"
    side: ClassVar[Side] = "activations"

    def client_loss(self, x: Tensor, z: Tensor, y: Tensor, step: int) -> Tensor | None:
        return z.square().mean()


@pytest.mark.parametrize("other", [Coupling(), ExtraLoss(), GaussianNoise(relative=1.0)])
def test_a_defense_that_breaks_per_sample_clipping_is_refused_beside_it(digits: Dataset, other: Defense) -> None:
    with pytest.raises(UserError, match=f"dp_sgd cannot stand beside {other.name}.*evaluate them apart"):
        started(digits, digits_split(), other, DPSGD())


def test_noise_of_a_fixed_scale_may_stand_beside_it(digits: Dataset) -> None:
    training, protection = started(digits, digits_split(), GaussianNoise(sigma=0.1), DPSGD())
    assert run(digits, training, protection)


def test_being_listed_twice_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match="private already; list dp_sgd once"):
        started(digits, digits_split(), DPSGD(), DPSGD())


def test_an_optimiser_of_no_part_is_refused(digits: Dataset) -> None:
    parts = digits_split()
    optimisers = {"everything": torch.optim.SGD(parts.head.parameters(), lr=0.1)}
    training = Training(parts.head, parts.body, None, optimisers, 64, 16, 1, Rng("t"))
    with pytest.raises(UserError, match="'everything' belongs to no part"):
        DPSGD().privatise(training)


class Replacing(Defense):
    name: ClassVar[str] = "replacing"
    side: ClassVar[Side] = "weights"

    def privatise(self, training: Training) -> Training:
        return Training(**vars(training))


def test_a_training_that_was_replaced_rather_than_changed_is_a_broken_contract(digits: Dataset) -> None:
    parts = digits_split()
    training = Training(parts.head, parts.body, None, {}, 64, 16, 1, Rng("t"))
    with pytest.raises(PluginError, match="defense replacing: privatise returned another object"):
        Protection([Replacing()], Rng("p")).privatise(training)


def accounted(scope: str, *, steps: int, clips: int, records: int = 60_000, batch_size: int = 256) -> DPSGD:
    defense = DPSGD.configured({"scope": scope})
    counts = {"steps": steps, "clips": clips, "records": records, "batch_size": batch_size}
    defense.state.update({key: torch.tensor(value) for key, value in counts.items()})
    return defense


@pytest.mark.parametrize(("scope", "clips", "epsilon"), [("joint", 1, 1.110), ("separate", 2, 2.822)])
def test_the_claim_is_the_golden_epsilon(scope: str, clips: int, epsilon: float) -> None:
    (claim,) = accounted(scope, steps=2343, clips=clips).privacy()
    assert claim.epsilon == pytest.approx(epsilon, abs=1e-3)
    assert (claim.view, claim.adjacency, claim.accountant) == ("weights", "add-remove", "opacus prv")


def test_the_claim_after_training_is_for_the_steps_that_were_made(digits: Dataset) -> None:
    defense = DPSGD(scope="separate")
    training, protection = started(digits, digits_split(tail="fc3"), defense, n=64, batch_size=16, epochs=2)
    run(digits, training, protection)
    (claim,) = defense.privacy()
    assert claim.epsilon == dp_sgd_epsilon(1 / math.sqrt(3), 16 / 64, 8, 1e-5)


def test_the_client_scope_claims_nothing_and_says_why(digits: Dataset) -> None:
    (claim,) = accounted("client", steps=100, clips=1).privacy()
    assert claim.epsilon is None
    assert claim.why_invalid is not None
    assert "server's part was trained without noise" in claim.why_invalid


def test_a_delta_that_lets_a_record_be_published_makes_the_claim_invalid() -> None:
    (claim,) = accounted("joint", steps=100, clips=1, records=100_000).privacy()
    assert claim.epsilon is None
    assert "delta=1e-05 is not below 1/100000" in str(claim.why_invalid)


def test_without_noise_epsilon_is_infinite(digits: Dataset) -> None:
    defense = DPSGD(noise_multiplier=0.0)
    training, protection = started(digits, digits_split(), defense)
    run(digits, training, protection)
    assert defense.privacy()[0].epsilon == math.inf


def test_nothing_is_claimed_before_training() -> None:
    assert list(DPSGD().privacy()) == []
