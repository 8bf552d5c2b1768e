from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from attacks.base import Attack, Budget, Finding, Goal, Progress
from benchmark import registry
from benchmark.cell import TargetRule
from benchmark.data import Dataset
from benchmark.errors import NotGranted
from benchmark.observe import Observation, observe, target_positions
from benchmark.victim import obtain_victim
from benchmark.view import Knowledge, ServerView, threat_model
from tests.specs import WATCH, cell_of, victim_spec

CPU = torch.device("cpu")
PHASES = ("training", "inference")


class Curious(Attack):
    name: ClassVar[str] = "curious"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)
    wants: tuple[Knowledge, ...] = ()
    k: int = 0

    def knowledge(self) -> frozenset[Knowledge]:
        return frozenset(self.wants)

    def known_labels_per_class(self) -> int:
        return self.k

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        return [Finding() for _ in views]


@pytest.fixture(scope="module")
def seen_by(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Observation]:
    cache: Path = tmp_path_factory.mktemp("victims")

    def build(
        *wants: Knowledge, k: int = 0, defenses: Sequence[str] = (), u_shaped: bool = True, **axes: object
    ) -> Observation:
        topology = {"topology": "u_shaped", "tail": "fc3"} if u_shaped else {}
        spec = victim_spec(digits, *defenses, watch=WATCH, epochs=2, **topology)
        attack = Curious(wants=wants, k=k)
        cell = cell_of(spec, "known_client", **axes)
        return observe(cell, obtain_victim(spec, digits, cache, CPU), digits, attack)

    return build


SECRETS = {
    Knowledge.CLIENT_WEIGHTS: lambda view: view.client_head,
    Knowledge.AUXILIARY: lambda view: view.auxiliary,
    Knowledge.QUERY: lambda view: view.query(torch.zeros(1, 1, 28, 28)),
    Knowledge.DEFENSE: lambda view: view.protection,
}


@pytest.mark.parametrize("wanted", SECRETS)
def test_what_is_not_declared_raises(seen_by: Callable[..., Observation], wanted: Knowledge) -> None:
    others = [knowledge for knowledge in Knowledge if knowledge is not wanted]
    view = seen_by(*others).view
    with pytest.raises(NotGranted, match=rf"asked its view for .{wanted.value}.*Knowledge\.{wanted.name}"):
        SECRETS[wanted](view)


@pytest.mark.parametrize("wanted", SECRETS)
def test_what_is_declared_is_granted(seen_by: Callable[..., Observation], wanted: Knowledge) -> None:
    assert SECRETS[wanted](seen_by(wanted).view) is not None


def test_known_labels_are_never_those_of_targets(seen_by: Callable[..., Observation]) -> None:
    observation = seen_by(Knowledge.KNOWN_LABELS, k=1, phase="training", views=2, targets=TargetRule("per_class", 2))
    known = observation.view.known_labels
    assert known.labels.sort().values.tolist() == list(range(10))
    distances = torch.cdist(known.smashed[0].flatten(1), observation.sent[0].flatten(1))
    assert float(distances.min()) > 0


def test_weight_gradients_are_there_only_in_training(seen_by: Callable[..., Observation]) -> None:
    training = seen_by(Knowledge.WEIGHT_GRADIENTS, phase="training", views=1, targets=TargetRule("per_class", 2))
    assert training.view.weight_gradients["fc3.weight"].shape == (1, 20, 10, 84)
    with pytest.raises(NotGranted, match=r"holds no 'weight gradients'.*inference phase"):
        _ = seen_by(Knowledge.WEIGHT_GRADIENTS).view.weight_gradients


def test_weight_gradients_come_in_the_order_of_the_tails_layers(seen_by: Callable[..., Observation]) -> None:
    training = seen_by(Knowledge.WEIGHT_GRADIENTS, phase="training", views=1, targets=TargetRule("per_class", 2))
    assert list(training.view.weight_gradients) == ["fc3.weight", "fc3.bias"]


def test_the_server_of_the_vanilla_topology_has_the_labels_of_training_and_no_cut_gradient(
    seen_by: Callable[..., Observation],
) -> None:
    observation = seen_by(u_shaped=False, phase="training", views=2)
    assert observation.view.labels is not None
    assert observation.view.labels.sort().values.tolist() == list(range(10))
    assert observation.view.cut_gradients is None


def test_nobody_tells_the_server_a_label_at_inference(seen_by: Callable[..., Observation]) -> None:
    assert seen_by(u_shaped=False).view.labels is None


def test_an_attack_that_overwrites_auxiliary_images_changes_nothing_for_the_harness(
    seen_by: Callable[..., Observation], digits: Dataset
) -> None:
    before = digits.auxiliary.images.clone()
    seen_by(Knowledge.AUXILIARY).view.auxiliary.images.zero_()
    assert torch.equal(digits.auxiliary.images, before)


def test_the_server_of_the_u_shaped_topology_has_no_labels(seen_by: Callable[..., Observation]) -> None:
    assert seen_by().view.labels is None


def test_each_query_of_a_noisy_client_is_a_fresh_draw(seen_by: Callable[..., Observation]) -> None:
    sent = seen_by(defenses=["gaussian_noise:relative=0.5"], u_shaped=False, views=3).sent
    assert not torch.equal(sent[0], sent[1])


def test_every_attack_on_a_victim_gets_the_same_observations(seen_by: Callable[..., Observation]) -> None:
    first, second = (seen_by(w, defenses=["gaussian_noise:relative=0.5"], u_shaped=False) for w in list(SECRETS)[:2])
    assert torch.equal(first.sent, second.sent)


def test_an_attack_that_overwrites_its_view_changes_nothing_for_the_harness(
    seen_by: Callable[..., Observation],
) -> None:
    observation = seen_by()
    before = observation.sent.clone()
    observation.view.smashed.zero_()
    for parameter in observation.view.body.parameters():
        parameter.data.zero_()
    assert torch.equal(observation.sent, before)
    assert float(next(seen_by().view.body.parameters()).abs().sum()) > 0


def test_the_view_is_of_the_architecture_that_the_attacker_assumes(seen_by: Callable[..., Observation]) -> None:
    assumed = registry.reference("model", "mnist_net_4x4")
    view = seen_by(u_shaped=False, assumed=assumed).view
    head = view.new_head(view.rng("head"))
    assert head.get_submodule("conv1").kernel_size == (4, 4)
    assert head(torch.zeros(1, 1, 28, 28)).shape[1:] == view.smashed.shape[2:]


def test_threat_models_are_named_by_what_is_granted() -> None:
    assert threat_model({Knowledge.QUERY}, "other_net") == "architecture of other_net+query"
    assert threat_model([]) == "architecture"
    assert threat_model([Knowledge.QUERY, Knowledge.AUXILIARY]) == "architecture+auxiliary+query"
    assert threat_model([Knowledge.CLIENT_WEIGHTS]) == "white box"
    assert threat_model([Knowledge.WEIGHT_GRADIENTS, Knowledge.KNOWN_LABELS]) == "weight gradients"
    assert threat_model([Knowledge.DEFENSE]) == "architecture"


@pytest.mark.parametrize("phase", PHASES)
def test_a_targets_position_tells_nothing_of_its_label(seen_by: Callable[..., Observation], phase: str) -> None:
    labels = seen_by(phase=phase, targets=TargetRule("per_class", 2)).truth.labels
    by_place = torch.arange(20) // 2
    assert labels.sort().values.tolist() == by_place.tolist()
    assert (labels == by_place).double().mean() < 0.35
    assert (labels[1:] == labels[:-1]).sum() < 5


def test_a_known_samples_position_tells_nothing_of_its_label(seen_by: Callable[..., Observation]) -> None:
    known = seen_by(Knowledge.KNOWN_LABELS, k=1, phase="training", views=1).view.known_labels
    assert (known.labels == torch.arange(10)).sum() < 5


def test_the_phases_have_orders_of_their_own(seen_by: Callable[..., Observation]) -> None:
    training, inference = (seen_by(phase=phase, targets=TargetRule("per_class", 2)) for phase in PHASES)
    assert training.truth.labels.tolist() != inference.truth.labels.tolist()


def test_everything_that_is_seen_of_a_target_stands_at_its_place(
    seen_by: Callable[..., Observation], digits: Dataset
) -> None:
    chosen, all_watched = (
        seen_by(Knowledge.WEIGHT_GRADIENTS, phase="training", views=2, targets=TargetRule("per_class", n))
        for n in (1, 2)
    )
    at = [all_watched.truth.ids.tolist().index(sample) for sample in chosen.truth.ids.tolist()]
    for few, many in zip(_seen(chosen.view), _seen(all_watched.view), strict=True):
        assert torch.equal(few, many[:, at])
    where = {sample: position for position, sample in enumerate(digits.victim.ids.tolist())}
    positions = [where[sample] for sample in chosen.truth.ids.tolist()]
    assert torch.equal(chosen.truth.images, digits.victim.images[positions])
    assert torch.equal(chosen.truth.labels, digits.victim.labels[positions])


@pytest.mark.parametrize("phase", PHASES)
def test_the_order_can_be_told_before_anything_is_seen(
    seen_by: Callable[..., Observation], digits: Dataset, phase: str
) -> None:
    spec = victim_spec(digits, watch=WATCH, epochs=2, topology="u_shaped", tail="fc3")
    cell = cell_of(spec, "known_client", phase=phase)
    part = digits.victim if phase == "training" else digits.test
    assert part.ids[target_positions(cell, digits)].tolist() == seen_by(phase=phase).truth.ids.tolist()


def _seen(view: ServerView) -> list[torch.Tensor]:
    assert view.body_outputs is not None
    assert view.cut_gradients is not None
    assert view.batch_sizes is not None
    return [
        view.smashed,
        view.body_outputs,
        view.cut_gradients,
        view.batch_sizes,
        *view.weight_gradients.values(),
    ]
