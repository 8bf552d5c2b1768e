"""Planted clients: clients that hide nothing, on which an attack has to succeed before its failures count.

Zimmermann et al., "Increasing Confidence in Adversarial Robustness Evaluations" (NeurIPS 2022): 11 of 13 published
evaluations of defenses fail a test in which an attack must succeed. Here every attack meets, through views like any
other, real images behind an identity, behind one convolution, and real training behind one linear layer, without any
defense, with the budget that its class states in `planted`.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmark import planted_data, registry
from benchmark.cell import Cell, PluginRef, TargetRule, VictimSpec, Watch
from benchmark.errors import PluginError
from benchmark.executors.attempt import failure_of
from benchmark.finding import Budget
from benchmark.observe import observe
from benchmark.scoring import Scores, score_finding
from benchmark.seeds import Rng
from benchmark.shield import shielded
from benchmark.victim import Victim, obtain_victim
from benchmark.view import Knowledge, Phase, Topology, threat_model

if TYPE_CHECKING:
    from attacks.base import Attack, Goal
    from benchmark.data import Dataset

# What an attack must reach: mean aligned SSIM over the targets, and share of labels. A clone must predict what the
# victim predicts on nine of ten held-out images: a fresh head does on two, and what is missing to ten are images
# near a decision boundary, which a clone that is right up to rounding may move.
DEMANDS: dict[Goal, tuple[str, float]] = {
    "reconstruct": ("aligned SSIM", 0.9),
    "infer_labels": ("label accuracy", 0.99),
    "steal": ("agreement with the victim", 0.9),
}
IMAGES: dict[str, Callable[[], Dataset]] = {
    "grey 28x28": planted_data.digits,
    "few grey 28x28": planted_data.few_digits,
    "colour 64x64": planted_data.patches,
}
_MODELS = Path(__file__).with_name("planted_models.py")


@dataclass(frozen=True)
class PlantedClient:
    """A client that hides nothing, and where an attack meets it.

    Attributes:
        title: What it is, in words.
        goals: What must succeed on it.
        images: Whose images, a key of `IMAGES`.
        head: `identity` or `convolution`: its only module, and the cut.
        topology, phase: Of the view.
        per_class: Targets a class.
        epochs, batch_size: Of its real training.
        known_per_class: Samples watched beside the targets, whose labels may be granted.
    """

    title: str
    goals: tuple[Goal, ...]
    images: str
    head: Literal["identity", "convolution"]
    topology: Topology
    phase: Phase
    per_class: int
    epochs: int = 2
    batch_size: int = 32
    known_per_class: int = 0

    def victim_spec(self) -> VictimSpec:
        """The victim behind it, undefended."""
        data = IMAGES[self.images]()
        watch = Watch(TargetRule("per_class", self.per_class), self.known_per_class)
        return VictimSpec(
            dataset=data.name,
            dataset_digest=data.digest,
            model=registry.reference("model", f"{_MODELS}:{self.head}_client"),
            topology=self.topology,
            cut=self.head,
            cut_reached=self.head,
            tail="tail" if self.topology == "u_shaped" else None,
            defenses=(),
            seed=0,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=1e-3,
            watch=watch if self.phase == "training" else None,
        )


@dataclass(frozen=True)
class PlantedScore:
    """How an attack did on a planted client, for one goal.

    Attributes:
        client: The client's title.
        goal: What was demanded.
        score: Mean over the targets (`DEMANDS` says of what), or None where there is none.
        demand: What it must reach.
        steps: Gradient steps spent on one target.
        seconds: Of the attack.
        problem: Why there is no score, or None.
    """

    client: str
    goal: Goal
    score: float | None
    demand: float
    steps: int
    seconds: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the demand is met."""
        return self.score is not None and self.score >= self.demand

    @property
    def margin(self) -> float:
        """By how much the demand is met; negative where it is not."""
        return -math.inf if self.score is None else self.score - self.demand

    def sentence(self) -> str:
        """The outcome in words."""
        if self.problem is not None:
            return f"{self.client}: {self.problem}"
        metric = DEMANDS[self.goal][0]
        return (
            f"{self.client}: {metric} {self.score:.3f}, demanded {self.demand:.2f}; "
            f"{self.steps} steps, {self.seconds:.1f} s"
        )


def planted_clients(attack: Attack) -> list[PlantedClient]:
    """The clients that an attack must succeed on, by what it declares: goals, knowledge, phases and topologies.

    An identity (with grey images in every phase it works in) and one convolution for whoever reconstructs or steals;
    one linear layer behind private labels for whoever infers labels, with one sample a batch where it reads weight
    gradients (of a larger batch they are a mixture). Each with small grey and with large colour images.
    """
    found: list[PlantedClient] = []
    topology = attack.topologies[0]
    phases = [phase for phase in ("inference", "training") if phase in attack.phases]
    pictures = tuple(goal for goal in attack.goals if goal != "infer_labels")
    for images in ("grey 28x28", "colour 64x64") if pictures else ():
        per_class = 1 if images == "grey 28x28" else 2
        if "reconstruct" in pictures:
            for phase in phases if images == "grey 28x28" else phases[:1]:
                title = f"identity, {images}, {phase}"
                found.append(PlantedClient(title, ("reconstruct",), images, "identity", topology, phase, per_class))
        known = "known" if Knowledge.CLIENT_WEIGHTS in attack.knowledge() else "unknown"
        # The victim of few large pictures predicts too little for a clone's agreement to say anything.
        goals = pictures if images == "grey 28x28" else tuple(goal for goal in pictures if goal != "steal")
        if goals:
            title = f"one {known} convolution, {images}, {phases[0]}"
            found.append(PlantedClient(title, goals, images, "convolution", topology, phases[0], per_class))
    if "infer_labels" in attack.goals:
        found += _with_private_labels(attack, phases[-1])
    return found


def _with_private_labels(attack: Attack, phase: Phase) -> Iterator[PlantedClient]:
    weights = Knowledge.WEIGHT_GRADIENTS in attack.knowledge()
    topology: Topology = "u_shaped" if "u_shaped" in attack.topologies else attack.topologies[0]
    reads = "weight gradients of single samples" if weights else "cut gradients"
    for images, per_class in (("few grey 28x28", 5), ("colour 64x64", 4)):
        yield PlantedClient(
            f"linear tail, {images.removeprefix('few ')}, {reads}",
            ("infer_labels",),
            images,
            "convolution",
            topology,
            phase,
            per_class,
            batch_size=1 if weights else 16,
            known_per_class=attack.known_labels_per_class(),
        )


def meet(ref: PluginRef, client: PlantedClient) -> list[PlantedScore]:
    """Run an attack on a planted client, and score it for each goal of the client.

    An attack that raises has not succeeded: its scores are missing, with the reason.

    Args:
        ref: The attack with the parameters that it meets planted clients with.
        client: Whom it meets.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    started = time.perf_counter()
    try:
        steps, seconds, scores = _attacked(registry.load_attack(ref), ref, client)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        seconds = time.perf_counter() - started
        reason = failure_of(error, "attack").reason
        return [PlantedScore(client.title, g, None, DEMANDS[g][1], 0, seconds, reason) for g in client.goals]
    found = []
    for goal in client.goals:
        score = _score(scores, goal)
        finite = math.isfinite(score)
        problem = None if finite else f"{DEMANDS[goal][0]} is {score}"
        found.append(
            PlantedScore(client.title, goal, score if finite else None, DEMANDS[goal][1], steps, seconds, problem)
        )
    return found


def _attacked(attack: Attack, ref: PluginRef, client: PlantedClient) -> tuple[int, float, Scores]:
    spec, data = client.victim_spec(), IMAGES[client.images]()
    cell = Cell(
        victim=spec,
        attack=ref,
        attack_seed=0,
        phase=client.phase,
        views=client.epochs if client.phase == "training" else 1,
        targets=TargetRule("per_class", client.per_class),
        goals=client.goals,
        role=attack.role,
        stance=attack.stance,
        threat_model=threat_model(attack.knowledge()),
        side="none",
    )
    victim = _trained(client)
    seen = observe(cell, victim, data, attack)
    started = time.perf_counter()
    with shielded(Rng("global streams", "planted", ref.name)):
        found = attack.run([seen.view], Budget(), lambda _: None)
    seconds = time.perf_counter() - started
    if not isinstance(found, list) or len(found) != 1:
        raise PluginError(f"attack {ref.name}: run returned {found!r:.60} for one view; return a list with one finding")
    return found[0].steps, seconds, score_finding(cell, victim, data, seen, found[0])


@cache
def _trained(client: PlantedClient) -> Victim:
    with tempfile.TemporaryDirectory() as folder:
        return obtain_victim(client.victim_spec(), IMAGES[client.images](), Path(folder), torch.device("cpu"))


def _score(scores: Scores, goal: Goal) -> float:
    if goal == "steal":
        return scores.scalars["steal_agreement"]
    values = scores.per_image["ssim_aligned" if goal == "reconstruct" else "correct"]
    return sum(values) / len(values)


def planted_parameters(cls: Any, given: dict[str, Any]) -> dict[str, Any]:
    """With what a class meets planted clients: what was given, then its `planted`, then examples of what is required.

    Raises:
        BrokenContractError: A required parameter has no example.
    """
    from benchmark.contract.text import examples

    return examples(cls, {**cls.planted, **given})
