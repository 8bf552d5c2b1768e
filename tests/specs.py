"""Small real victims and cells for tests."""

from __future__ import annotations

from benchmark import registry
from benchmark.cell import Cell, TargetRule, VictimSpec, Watch
from benchmark.data import Dataset
from benchmark.view import threat_model

WATCH = Watch(TargetRule("per_class", 2), known_per_class=1)


def victim_spec(digits: Dataset, *defenses: object, **changes: object) -> VictimSpec:
    settings: dict[str, object] = {
        "dataset": digits.name,
        "dataset_digest": digits.digest,
        "model": registry.reference("model", "mnist_net"),
        "topology": "vanilla",
        "cut": "pool1",
        "tail": None,
        "defenses": tuple(registry.reference("defense", defense) for defense in defenses),
        "seed": 0,
        "epochs": 1,
        "batch_size": 64,
        "learning_rate": 1e-3,
        **changes,
    }
    settings.setdefault("cut_reached", settings["cut"])
    return VictimSpec(**settings)  # type: ignore[arg-type]


def cell_of(victim: VictimSpec, attack: object, **changes: object) -> Cell:
    ref = registry.reference("attack", attack)
    loaded = registry.load_attack(ref)
    settings: dict[str, object] = {
        "victim": victim,
        "attack": ref,
        "attack_seed": 0,
        "phase": "inference",
        "views": 1,
        "targets": TargetRule(),
        "goals": tuple(loaded.goals),
        "role": loaded.role,
        "stance": loaded.stance,
        "threat_model": threat_model(loaded.knowledge()),
        "side": "none",
        **changes,
    }
    return Cell(**settings)  # type: ignore[arg-type]
