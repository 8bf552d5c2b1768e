"""Victims and cells as plain values with content keys: what the plan makes and the runner carries out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from benchmark.record import RESULTS_VERSION as RESULTS_VERSION
from benchmark.record import Axes

TRAINING_HOOKS = (
    "prepare",
    "protect_labels",
    "protect_inputs",
    "client_loss",
    "protect_activations",
    "protect_gradients",
    "privatise",
)


@dataclass(frozen=True)
class PluginRef:
    """A plug-in instance, as a value that can be sent to another process.

    Attributes:
        kind: `attack`, `defense` or `model`.
        name: Its own name.
        parameters: All of them, defaults included, JSON values.
        changed: Canonical text of those that differ from the defaults (`k=v,k=v`), for display.
        source: `builtin`, `entry point DISTRIBUTION`, or an absolute `path.py:Class`.
        version: The plug-in's own version.
        digest: Digest of its code, comments and docstrings left out, local imports included.
        trains: True where a defense overrides a hook that changes training; False for attacks and models.
    """

    kind: Literal["attack", "defense", "model"]
    name: str
    parameters: dict[str, Any]
    changed: str
    source: str
    version: int
    digest: str
    trains: bool = False

    def identity(self) -> dict[str, Any]:
        """What of it can change an outcome."""
        return {key: getattr(self, key) for key in ("kind", "name", "parameters", "version", "digest")}


@dataclass(frozen=True)
class TargetRule:
    """How private samples are chosen from a part of the data.

    Attributes:
        how: `first_of_class`: the first sample of each class. `per_class`: the first n of each class.
            `drawn`: n drawn by `seed`.
        n: Samples a class (`per_class`) or in all (`drawn`); 1 with `first_of_class`.
        seed: Seed of the draw.
    """

    how: Literal["first_of_class", "per_class", "drawn"] = "first_of_class"
    n: int = 1
    seed: int = 0

    def text(self) -> str:
        """Canonical text, for display."""
        if self.how == "first_of_class":
            return self.how
        return f"{self.how}:n={self.n}" + (f",seed={self.seed}" if self.how == "drawn" else "")


@dataclass(frozen=True)
class Watch:
    """Which samples of the victim's own data the server's view of training is kept for.

    Attributes:
        rule: Chooses the targets of training-phase attacks from the victim part.
        known_per_class: Further samples a class, the next ones of the part, whose labels attackers may be granted.
        batch_size: Watch one more pass after the last epoch instead, in batches of this size that update nothing.
    """

    rule: TargetRule
    known_per_class: int = 0
    batch_size: int | None = None

    def identity(self) -> dict[str, Any]:
        """What of it can change an outcome."""
        identity = asdict(self)
        if self.batch_size is None:
            # Keys of what was watched before there was such a pass stay as they are.
            del identity["batch_size"]
        return identity


@dataclass(frozen=True)
class VictimSpec:
    """One victim: a split network trained under defenses.

    Attributes:
        dataset: Name and options, canonical (`mnist-5k`, `image_folder:path=...,size=32`).
        dataset_digest: Digest of the data set's parts.
        model: The architecture.
        topology, cut, cut_reached, tail: Where it is cut; `cut` as asked for, `cut_reached` after `deeper_split`.
        defenses: In order; empty for none.
        seed: Victim seed: initialisation, batches, noise.
        epochs, batch_size, learning_rate: Adam with amsgrad; no epochs leaves the victim untrained.
        watch: What is kept of training, or None.
    """

    dataset: str
    dataset_digest: str
    model: PluginRef
    topology: Literal["vanilla", "u_shaped"]
    cut: str
    cut_reached: str
    tail: str | None
    defenses: tuple[PluginRef, ...]
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    watch: Watch | None = None

    @property
    def defended_training(self) -> bool:
        """Whether a defense takes part in training; without, every cut and topology shares one training."""
        return any(defense.trains for defense in self.defenses)

    @property
    def watched_epochs(self) -> int:
        """How often each watched sample is seen in training."""
        return 1 if self.watch and self.watch.batch_size else self.epochs

    def undefended(self) -> VictimSpec:
        """The victim without defenses at the cut asked for: what utility and cost are compared with."""
        return replace(self, defenses=(), cut_reached=self.cut, watch=None)

    def weights_key(self) -> str:
        """Key of the trained weights. Undefended ones do not depend on topology, cut, tail or what is watched."""
        identity = self._identity()
        if not self.defended_training:
            for axis in ("topology", "cut", "cut_reached", "tail", "defenses", "watch"):
                del identity[axis]
        return content_key("weights", identity)

    def key(self) -> str:
        """Key of the victim with everything the server saw of its training."""
        return content_key("victim", self._identity())

    def _identity(self) -> dict[str, Any]:
        identity = asdict(self)
        identity["model"] = self.model.identity()
        identity["defenses"] = [defense.identity() for defense in self.defenses]
        identity["watch"] = self.watch and self.watch.identity()
        return identity


@dataclass(frozen=True)
class Cell:
    """One victim under one attack.

    Attributes:
        victim: Whom.
        attack: With what.
        attack_seed: Seed of the attack's own draws.
        phase: When the server saw the targets.
        views: How often (inference; in training as often as there are epochs).
        targets: From the test part (inference) or among the watched samples (training).
        goals, role, stance, threat_model, side: Display axes, as the plug-ins declare them.
        precision: Number format of the attack.
        assumed: The architecture that the attacker takes for the victim's, where that is another one.
    """

    victim: VictimSpec
    attack: PluginRef
    attack_seed: int
    phase: Literal["training", "inference"]
    views: int
    targets: TargetRule
    goals: tuple[str, ...]
    role: str
    stance: str
    threat_model: str
    side: str
    precision: str = "fp32"
    assumed: PluginRef | None = None

    def key(self) -> str:
        """Key of the outcome; see `content_key`."""
        return self._key

    @cached_property
    def _key(self) -> str:
        assumed = {"assumed": self.assumed.identity()} if self.assumed else {}
        return content_key(
            "cell",
            {
                "victim": self.victim.key(),
                "attack": self.attack.identity(),
                "attack_seed": self.attack_seed,
                "phase": self.phase,
                "views": self.views,
                "targets": asdict(self.targets),
                "stance": self.stance,
                "precision": self.precision,
            }
            | assumed,
        )

    def axes(self) -> Axes:
        """Where the cell stands in the matrix, for its record."""
        victim = self.victim
        return Axes(
            dataset=victim.dataset,
            model=victim.model.name,
            topology=victim.topology,
            cut=victim.cut,
            cut_reached=victim.cut_reached,
            tail=victim.tail,
            victim="trained" if victim.epochs else "untrained",
            defense=" + ".join(defense.name for defense in victim.defenses) or "none",
            params=_params(victim.defenses),
            side=self.side,
            seed=victim.seed,
            attack=self.attack.name,
            attack_params=self.attack.changed,
            attack_seed=self.attack_seed,
            goals=list(self.goals),
            role=self.role,
            stance=self.stance,
            phase=self.phase,
            views=self.views,
            threat_model=self.threat_model,
            targets=self._targets(),
            precision=self.precision,
        )

    def _targets(self) -> str:
        watch = self.victim.watch if self.phase == "training" else None
        if watch is None or watch.batch_size is None:
            return self.targets.text()
        return f"{self.targets.text()}; frozen batches of {watch.batch_size}"

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Cell:
        """The cell that `to_json` wrote."""
        victim = dict(value["victim"])
        watch = victim["watch"]
        victim["model"] = PluginRef(**victim["model"])
        victim["defenses"] = tuple(PluginRef(**defense) for defense in victim["defenses"])
        victim["watch"] = watch and Watch(**{**watch, "rule": TargetRule(**watch["rule"])})
        return cls(
            **{
                **value,
                "victim": VictimSpec(**victim),
                "attack": PluginRef(**value["attack"]),
                "targets": TargetRule(**value["targets"]),
                "goals": tuple(value["goals"]),
                "assumed": PluginRef(**value["assumed"]) if value.get("assumed") else None,
            }
        )


@dataclass(frozen=True)
class Group:
    """Cells of equal shape that run as lanes of one program; fixed by the plan.

    Attributes:
        cells: At least one; same attack, attack seed, phase, views, cut reached and defense names. Of several data sets
            of one shape only where the attacker is given nothing of them.
    """

    cells: tuple[Cell, ...]

    def key(self) -> str:
        """Key of the group: of its cells, in order."""
        return content_key("group", [cell.key() for cell in self.cells])


@dataclass(frozen=True)
class Plan:
    """Everything a suite asks for.

    Attributes:
        suite: Its name.
        suite_digest: Digest of its file.
        groups: In the order they are run.
    """

    suite: str
    suite_digest: str
    groups: tuple[Group, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, in order."""
        return tuple(cell for group in self.groups for cell in group.cells)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        groups = [[cell.to_json() for cell in group.cells] for group in self.groups]
        return {"suite": self.suite, "suite_digest": self.suite_digest, "groups": groups}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        groups = tuple(Group(tuple(Cell.from_json(cell) for cell in cells)) for cells in value["groups"])
        return cls(**{**value, "groups": groups})


def _params(defenses: tuple[PluginRef, ...]) -> str:
    """Changed parameters of a composition; each named by its defense where there are several."""
    if len(defenses) == 1:
        return defenses[0].changed
    return "; ".join(f"{defense.name}: {defense.changed}" for defense in defenses if defense.changed)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: the same text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(kind: str, value: object) -> str:
    """SHA-256, 64 hex digits, over the results version, the kind of thing and all that can change its outcome."""
    return hashlib.sha256(canonical_json([RESULTS_VERSION, kind, value]).encode()).hexdigest()
