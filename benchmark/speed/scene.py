"""What a timed attack is shown: a view of an undefended victim, made as for any cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from benchmark import registry
from benchmark.cell import Cell, TargetRule, VictimSpec
from benchmark.data import Dataset, load_dataset
from benchmark.observe import Observation, observe
from benchmark.parts import Part, dataset_of
from benchmark.planted_data import patches
from benchmark.victim import Victim, obtain_victim
from benchmark.view import threat_model

if TYPE_CHECKING:
    from benchmark.cell import PluginRef

COLOUR = "colour 32x32"


@dataclass(frozen=True)
class Scene:
    """A victim and its targets.

    Attributes:
        dataset: A data set's name, or `COLOUR`: ten patches of real pictures, so that CIFAR-10 need not be there.
        model, cut: Of the victim.
        per_class: Targets of each class.
        epochs: Of its training. None is needed where only time counts.
        seed: Of victim and attack.
        cache: Folder of victims.
        data_root: Folder of the data sets, or None.
    """

    dataset: str
    model: str
    cut: str
    per_class: int
    cache: str
    epochs: int = 0
    seed: int = 0
    data_root: str | None = None

    def data(self) -> Dataset:
        """The data set."""
        if self.dataset == COLOUR:
            return colour()
        return _loaded(self.dataset, self.data_root)

    def victim(self) -> Victim:
        """The victim, trained if it has to be, on the CPU."""
        return obtain_victim(self._spec(), self.data(), Path(self.cache), torch.device("cpu"))

    def observed_by(self, ref: PluginRef) -> Observation:
        """What this attack sees of it, and the truth."""
        attack = registry.load_attack(ref)
        cell = Cell(
            victim=self._spec(),
            attack=ref,
            attack_seed=self.seed,
            phase="inference",
            views=1,
            targets=TargetRule("per_class", self.per_class),
            goals=tuple(attack.goals),
            role=attack.role,
            stance=attack.stance,
            threat_model=threat_model(attack.knowledge()),
            side="none",
        )
        return observe(cell, self.victim(), self.data(), attack)

    def _spec(self) -> VictimSpec:
        data = self.data()
        return VictimSpec(
            dataset=data.name,
            dataset_digest=data.digest,
            model=registry.reference("model", self.model),
            topology="vanilla",
            cut=self.cut,
            cut_reached=self.cut,
            tail=None,
            defenses=(),
            seed=self.seed,
            epochs=self.epochs,
            batch_size=64,
            learning_rate=1e-3,
        )


@cache
def colour() -> Dataset:
    """The planted clients' pictures at half their side, 3x32x32: five classes, two test images each."""
    whole = patches()
    parts = {}
    for title, part in whole.parts().items():
        halved = (F.avg_pool2d(part.images, 2) * 255).round() / 255
        parts[title] = Part(halved, part.labels, part.ids)
    return dataset_of("speed-patches", parts["victim"], parts["auxiliary"], parts["test"], whole.class_names)


@cache
def _loaded(name: str, root: str | None) -> Dataset:
    return load_dataset(name, None if root is None else Path(root))
