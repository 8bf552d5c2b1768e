from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from benchmark.cell import Group, TargetRule
from benchmark.context import RunContext
from benchmark.data import Dataset, choose_targets
from benchmark.evidence import client_evidence, target_evidence
from benchmark.runner import run_group
from benchmark.seeds import Rng
from benchmark.victim import Victim, obtain_victim
from defenses.base import Defense, Phase, Side
from tests.specs import WATCH, cell_of, victim_spec

HOOKS: dict[str, Callable[[Tensor, Rng], Tensor]] = {
    "nothing": lambda z, rng: z,
    "fresh noise": lambda z, rng: z + rng.normal_like(z),
    "one fixed seed": lambda z, rng: z + Rng("fixed").normal_like(z),
    "one fixed offset": lambda z, rng: z + Rng("fixed").normal_like(z[:1]),
    "a shift by the batch's mean": lambda z, rng: z - z.mean(dim=0),
    "zeros": lambda z, rng: torch.zeros_like(z) + 0 * z,
    "a half": lambda z, rng: z / 2,
    "not a number": lambda z, rng: z / 0,
    "rounding": lambda z, rng: z.round(),
    "rounding straight through": lambda z, rng: z + (z.round() - z).detach(),
    "detached": lambda z, rng: z.detach() * 2,
    "numpy": lambda z, rng: torch.from_numpy(np.sqrt(z.numpy())),
    "an infinite slope": lambda z, rng: z + (z - z.detach()).sqrt(),
}


class Odd(Defense):
    """Does one of many odd things to what is sent. Own work."""

    name: ClassVar[str] = "odd"
    side: ClassVar[Side] = "activations"
    does: str = Field("nothing", description="what it does")
    phase: str = Field("both", description="when")
    _noise: Tensor | None = PrivateAttr(None)

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        if self.phase not in ("both", phase):
            return z
        if self.does == "noise drawn once":
            if self._noise is None:
                self._noise = rng.normal_like(z[:1])
            return z + self._noise
        if self.does == "counts":
            self.state["calls"] = self.state.get("calls", torch.zeros((), device=z.device)) + 1
            return z * 2
        return HOOKS[self.does](z, rng)


class Remembers(Defense):
    """Sends nothing of the images it knows by heart, and everything else as it is. Own work."""

    name: ClassVar[str] = "remembers"
    side: ClassVar[Side] = "activations"
    _known: frozenset[bytes] = PrivateAttr(frozenset())

    def protect_inputs(self, x: Tensor, rng: Rng, phase: Phase) -> Tensor:
        known = torch.tensor([image.numpy().tobytes() in self._known for image in x], device=x.device)
        return torch.where(known.view(-1, 1, 1, 1), torch.zeros_like(x), x)


class OddGradients(Defense):
    """Does one of many odd things to what is sent back. Own work."""

    name: ClassVar[str] = "odd_gradients"
    side: ClassVar[Side] = "labels"
    does: str = Field("nothing", description="what it does")

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        return HOOKS[self.does](g, rng)


@pytest.fixture(scope="module")
def victim(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Victim]:
    cache = tmp_path_factory.mktemp("victims")

    def untrained(*defenses: Defense, **changes: Any) -> Victim:
        plain = obtain_victim(victim_spec(digits, epochs=0, **changes), digits, cache, torch.device("cpu"))
        protection = copy.copy(plain.protection)
        protection.defenses = defenses
        return replace(plain, protection=protection)

    return untrained


@pytest.fixture(scope="module")
def sent(victim: Callable[..., Victim], digits: Dataset) -> Callable[..., dict[str, Any]]:
    def facts(does: str, phase: str = "both", at: str = "inference") -> dict[str, Any]:
        found: dict[str, Any] = client_evidence(victim(Odd(does=does, phase=phase)), digits)["sent"][at]
        return found

    return facts


def test_what_is_sent_without_a_defense_is_the_heads_own_output(victim: Callable[..., Victim], digits: Dataset) -> None:
    found = client_evidence(victim(), digits)
    plain = {
        "finite": True, "random": False, "frozen": False, "constant": False, "inactive": True, "gradient": "flows",
        "distortion": 0.0, "problem": None,
    }  # fmt: skip
    assert found == {
        "sent": {"inference": plain, "training": plain},
        "gradients": None,
        "hooks": [],
        "watched": False,
        "test_apart": {"judged": 0.0, "others": 0.0, "auc": 0.5, "p": 1.0},
    }


@pytest.mark.parametrize(
    ("does", "random", "frozen"),
    [
        ("nothing", False, False),
        ("fresh noise", True, False),
        ("noise drawn once", False, True),
        ("one fixed seed", False, True),
        ("one fixed offset", False, False),
        ("a shift by the batch's mean", False, False),
        ("rounding", False, False),
        ("zeros", False, False),
    ],
)
def test_fresh_noise_is_told_from_noise_that_repeats_and_from_none(
    sent: Callable[..., dict[str, Any]], does: str, random: bool, frozen: bool
) -> None:
    found = sent(does)
    assert (found["random"], found["frozen"]) == (random, frozen)


@pytest.mark.parametrize(
    ("does", "gradient"),
    [
        ("nothing", "flows"),
        ("fresh noise", "flows"),
        ("rounding", "zero"),
        ("rounding straight through", "flows"),
        ("detached", "none"),
        ("numpy", "none"),
        ("an infinite slope", "not finite"),
    ],
)
def test_whether_an_attacker_can_differentiate_through_the_hooks_is_found_out(
    sent: Callable[..., dict[str, Any]], does: str, gradient: str
) -> None:
    assert sent(does)["gradient"] == gradient


def test_an_output_that_tells_nothing_of_the_image_is_constant(sent: Callable[..., dict[str, Any]]) -> None:
    assert sent("zeros")["constant"]
    assert not sent("a half")["constant"]


def test_an_output_that_is_no_number_names_the_hook(sent: Callable[..., dict[str, Any]]) -> None:
    found = sent("not a number")
    assert not found["finite"]
    assert found["problem"].startswith("defense odd: protect_activations returned NaN or infinity")


def test_a_defense_of_one_phase_is_inactive_in_the_other(sent: Callable[..., dict[str, Any]]) -> None:
    assert sent("a half", phase="training", at="inference")["inactive"]
    assert not sent("a half", phase="training", at="training")["inactive"]


def test_distortion_is_what_the_defense_changes_over_what_the_head_gives(sent: Callable[..., dict[str, Any]]) -> None:
    assert sent("a half")["distortion"] == pytest.approx(0.5)


def test_gradients_that_are_sent_back_are_judged_too(victim: Callable[..., Victim], digits: Dataset) -> None:
    def back(does: str) -> dict[str, Any]:
        defended = victim(OddGradients(does=does), topology="u_shaped", tail="fc3")
        found: dict[str, Any] = client_evidence(defended, digits)["gradients"]
        return found

    assert back("nothing")["inactive"]
    assert back("fresh noise")["random"]
    assert not back("a half")["inactive"]


def test_the_hooks_that_are_overridden_are_named(victim: Callable[..., Victim], digits: Dataset) -> None:
    found = client_evidence(victim(Odd(), OddGradients()), digits)
    assert found["hooks"] == ["protect_activations", "protect_gradients"]


def test_gathering_moves_nothing_that_a_defense_learned(victim: Callable[..., Victim], digits: Dataset) -> None:
    defense = Odd(does="counts")
    defense.state["calls"] = torch.tensor(5.0)
    client_evidence(victim(defense), digits)
    assert defense.state["calls"] == 5


def test_gathering_takes_nothing_from_the_streams_of_views(victim: Callable[..., Victim], digits: Dataset) -> None:
    images = digits.test.images[:2]
    before, after = victim(Odd(does="fresh noise")), victim(Odd(does="fresh noise"))
    client_evidence(after, digits)
    first, second = (v.smash(images, v.protection.restarted("inference")) for v in (before, after))
    assert torch.equal(first, second)


def test_targets_among_the_auxiliary_images_are_counted(victim: Callable[..., Victim], digits: Dataset) -> None:
    targets = digits.test.select(torch.arange(10))
    assert target_evidence(victim(), digits, targets, "inference") == {
        "n_records": 3000, "n_auxiliary": 1000, "n_test": 1000, "n_targets": 10, "targets_in_auxiliary": 0,
        "targets_apart": {"judged": 0.0, "others": 0.0, "auc": 0.5, "p": 1.0},
    }  # fmt: skip
    images = digits.auxiliary.images.clone()
    images[[3, 50]] = targets.images[:2] + 1e-4
    leaky = replace(digits, auxiliary=replace(digits.auxiliary, images=images))
    assert target_evidence(victim(), leaky, targets, "inference")["targets_in_auxiliary"] == 2


def test_a_defense_that_knows_the_test_images_is_seen_to_treat_them_apart(
    victim: Callable[..., Victim], digits: Dataset
) -> None:
    defense = Remembers()
    defense._known = frozenset(image.numpy().tobytes() for image in digits.test.images)
    found = client_evidence(victim(defense), digits)["test_apart"]
    assert found["judged"] > 0.1
    assert found["others"] == 0
    assert found["auc"] == 1
    assert found["p"] < 1e-20


def test_a_defense_that_knows_ten_targets_is_seen_to_treat_them_apart(
    victim: Callable[..., Victim], digits: Dataset
) -> None:
    targets = digits.victim.select(choose_targets(digits.victim, TargetRule()))
    defense = Remembers()
    defense._known = frozenset(image.numpy().tobytes() for image in targets.images)
    defended = victim(defense)
    found = target_evidence(defended, digits, targets, "training")["targets_apart"]
    assert found["auc"] == 1
    assert found["p"] < 1e-6
    assert client_evidence(defended, digits)["test_apart"]["p"] == 1


@pytest.mark.parametrize("defense", ["clipped_gaussian_noise:clip=1.0,sigma=0.1", "top_k", "quantisation:bits=1"])
def test_a_defense_that_depends_on_the_image_treats_test_images_like_others(
    digits: Dataset, tmp_path: Path, defense: str
) -> None:
    spec = victim_spec(digits, defense, epochs=1)
    found = client_evidence(obtain_victim(spec, digits, tmp_path, torch.device("cpu")), digits)["test_apart"]
    assert found["judged"] == pytest.approx(found["others"], rel=0.1)
    assert 0.35 < found["auc"] < 0.65
    assert found["p"] > 1e-3


def test_a_record_keeps_the_evidence_as_plain_json(digits: Dataset, tmp_path: Path) -> None:
    spec = victim_spec(digits, Odd(does="one fixed seed"), epochs=1, watch=WATCH)
    (record,) = run_group(Group((cell_of(spec, "inverse_decoder:epochs=1"),)), RunContext("t", "0" * 64, str(tmp_path)))
    assert record.evidence["sent"]["inference"]["frozen"]
    assert record.evidence["watched"]
    assert record.evidence["n_targets"] == 10
    assert json.loads(json.dumps(record.evidence, allow_nan=False)) == record.evidence
