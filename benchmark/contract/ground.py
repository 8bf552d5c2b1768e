"""What plug-ins are tried on: a few real digits, a small real network in both topologies, real training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from benchmark import registry
from benchmark.cell import Cell, PluginRef, TargetRule, VictimSpec, Watch
from benchmark.data import Dataset, Part, choose_targets, load_dataset
from benchmark.models import Split, cuts, network, split
from benchmark.parts import dataset_of
from benchmark.protection import Protection
from benchmark.protocol import Step, Training, Wire, batches, split_step
from benchmark.seeds import Rng
from benchmark.victim import Victim, obtain_victim
from benchmark.view import Phase, threat_model

if TYPE_CHECKING:
    from attacks.base import Attack
    from defenses.base import Defense

CUT, TAIL = "pool2", "fc3"
_PER_CLASS = {"victim": 8, "auxiliary": 10, "test": 2}


@dataclass(frozen=True)
class Setting:
    """A topology with its tail."""

    topology: Literal["vanilla", "u_shaped"]
    tail: str | None


SETTINGS = (Setting("vanilla", None), Setting("u_shaped", TAIL))


@cache
def digits() -> Dataset:
    """200 real digits, each class in each part."""
    whole = load_dataset("mnist-5k")
    few: dict[str, Part] = {
        name: part.select(choose_targets(part, TargetRule("per_class", _PER_CLASS[name])))
        for name, part in whole.parts().items()
    }
    return dataset_of("mnist-5k", few["victim"], few["auxiliary"], few["test"], whole.class_names)


def parts(setting: Setting, defense: Defense | None = None) -> Split:
    """Head, body and tail with fresh weights, cut where the defense wants it."""
    data = digits()
    factory = registry.load_model(registry.reference("model", "mnist_net"))
    whole = network(factory, data.image_shape, data.n_classes, Rng("verify"))
    cut = CUT if defense is None else defense.moved_cut(CUT, list(cuts(whole)))
    return split(whole, cut, setting.tail)


def victim_spec(
    setting: Setting, defenses: tuple[PluginRef, ...] = (), seed: int = 0, known_per_class: int | None = None
) -> VictimSpec:
    """A victim on the few digits, trained for one epoch; watched if `known_per_class` is given."""
    data = digits()
    loaded = [registry.load_defense(ref) for ref in defenses]
    return VictimSpec(
        dataset=data.name,
        dataset_digest=data.digest,
        model=registry.reference("model", "mnist_net"),
        topology=setting.topology,
        cut=CUT,
        cut_reached=parts(setting, loaded[0] if loaded else None).cut,
        tail=setting.tail,
        defenses=defenses,
        seed=seed,
        epochs=1,
        batch_size=16,
        learning_rate=1e-3,
        watch=None if known_per_class is None else Watch(TargetRule("per_class", 1), known_per_class),
    )


def trained(spec: VictimSpec, cache_folder: Path) -> Victim:
    """The victim, trained as in a run."""
    return obtain_victim(spec, digits(), cache_folder, torch.device("cpu"))


def train(cut: Split, protection: Protection) -> None:
    """Train a split that `protection` has prepared for one epoch, in place."""
    part = digits().victim
    training = protection.privatise(
        Training(
            head=cut.head,
            body=cut.body,
            tail=cut.tail,
            optimisers={
                name: torch.optim.Adam(module.parameters(), lr=1e-3, amsgrad=True)
                for name, module in cut.parts().items()
                if any(True for _ in module.parameters())
            },
            n_records=len(part),
            batch_size=16,
            epochs=1,
            rng=Rng("verify", "training"),
        )
    )
    labels = protection.labels(part.labels, digits().n_classes)
    for number, ids in enumerate(batches(training, Rng("verify", "batches"))):
        split_step(training, protection, Step(part.images[ids], labels[ids], ids, 0, number), Wire())


def cell(spec: VictimSpec, ref: PluginRef, attack: Attack, phase: Phase) -> Cell:
    """The victim under the attack."""
    return Cell(
        victim=spec,
        attack=ref,
        attack_seed=0,
        phase=phase,
        views=1,
        targets=TargetRule("per_class", 1),
        goals=tuple(attack.goals),
        role=attack.role,
        stance=attack.stance,
        threat_model=threat_model(attack.knowledge()),
        side="none",
    )
