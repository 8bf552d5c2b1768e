"""Whether an attack passed its planted clients: measured once for its code, stance and knowledge, and kept.

Verdicts of built-in attacks are released with the package, `results/planted.json`; others are measured by the first
run that needs them and kept beside its victims, `<cache>/planted/<key>.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmark import registry
from benchmark.cell import PluginRef, content_key
from benchmark.discovery import listed
from benchmark.environment import environment
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.planted import PlantedScore, meet, planted_clients, planted_parameters
from benchmark.spec import Spec
from benchmark.view import Knowledge

if TYPE_CHECKING:
    from attacks.base import Attack
    from benchmark.record import Record

RELEASED = "planted.json"
FAILED, UNKNOWN = "planted_client_failed", "planted_client_unknown"

OnScore = Callable[[PlantedScore, float], None]


@dataclass(frozen=True)
class Verdict:
    """What came of an attack's planted clients.

    Attributes:
        attack: Its specification, `name:key=value`, as it met them: its budget.
        stance: `oblivious`, `aware` or `adaptive`.
        knowledge: What it declared, sorted.
        scores: One a client and goal, in the order they were measured.
    """

    attack: str
    stance: str
    knowledge: tuple[str, ...]
    scores: tuple[PlantedScore, ...]

    @property
    def passed(self) -> bool:
        """Whether every demand is met; an attack that met no planted client has not passed."""
        return bool(self.scores) and all(score.passed for score in self.scores)

    @property
    def worst(self) -> PlantedScore | None:
        """The score furthest below its demand, or closest to it; None where there is none."""
        return min(self.scores, key=lambda score: score.margin, default=None)

    def passed_for(self, goal: str) -> bool:
        """Whether every demand of one goal is met."""
        scores = [score for score in self.scores if score.goal == goal]
        return bool(scores) and all(score.passed for score in scores)

    def summary(self, goals: Iterable[str]) -> dict[str, Any]:
        """What a record says of it: `passed`, the worst `client`, its `score` and `demand`, and each goal's `goals`."""
        worst = self.worst
        by_goal = {goal: self.passed_for(goal) for goal in goals}
        return {
            "passed": bool(by_goal) and all(by_goal.values()),
            "goals": by_goal,
            "client": worst.client if worst else None,
            "score": worst.score if worst else None,
            "demand": worst.demand if worst else None,
            "reason": worst.problem if worst else "it met no planted client",
            "attack": self.attack,
        }

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Verdict:
        """The verdict that `to_json` wrote.

        Raises:
            TypeError, KeyError: It is none.
        """
        scores = tuple(PlantedScore(**score) for score in value["scores"])
        return cls(**{**value, "scores": scores, "knowledge": tuple(value["knowledge"])})


def verdict_key(ref: PluginRef) -> str:
    """Key of the verdict that stands for an attack: of its code, stance and knowledge, not of its other parameters."""
    return content_key(
        "planted",
        {
            "name": ref.name,
            "version": ref.version,
            "digest": ref.digest,
            "stance": ref.parameters["stance"],
            "knowledge": _knowledge(registry.load_attack(ref)),
        },
    )


def planted_reference(ref: PluginRef) -> PluginRef:
    """The attack as it meets planted clients: the budget of its class, in the stance and with the knowledge of `ref`.

    Where one parameter decides what it must be granted, that parameter is taken over, and otherwise all that were
    changed.
    """
    attack = registry.load_attack(ref)
    cls = type(attack)
    stance = {"stance": attack.stance}
    changed = attack.changed_parameters()
    for taken in ({}, *({name: value} for name, value in changed.items()), changed):
        made = _configured(cls, {**taken, **stance})
        if made is not None and _knowledge(made) == _knowledge(attack):
            return replace(ref, parameters=made.parameters(), changed=made.spec().partition(":")[2])
    return ref


def variants(cls: type[Attack], target: str) -> list[PluginRef]:
    """An attack in every stance and with every knowledge that one of its options makes it declare.

    In each stance the form comes first that the class states a budget for.
    """
    found: dict[str, PluginRef] = {}
    for stance in cls.stances:
        for given in [{}, *_options(cls)]:
            made = _configured(cls, {**given, "stance": stance})
            if made is not None:
                ref = registry.reference("attack", Spec(target, made.changed_parameters()))
                found.setdefault(verdict_key(ref), ref)
    return list(found.values())


def built_in() -> list[list[PluginRef]]:
    """What a release needs verdicts of: for every built-in attack its variants."""
    names = [origin.name for origin in listed("attack") if origin.source == "builtin"]
    return [variants(registry.plugin("attack", name), name) for name in names]


def measure(ref: PluginRef, on_score: OnScore = lambda *_: None) -> Verdict:
    """Run an attack on all its planted clients, here and now.

    Args:
        ref: The attack with the parameters that it meets them with.
        on_score: Called with each score and the share of clients done.
    """
    attack = registry.load_attack(ref)
    clients = planted_clients(attack)
    scores: list[PlantedScore] = []
    for done, client in enumerate(clients, start=1):
        for score in meet(ref, client):
            scores.append(score)
            on_score(score, done / len(clients))
    return verdict_of(ref, scores)


def verdict_of(ref: PluginRef, scores: Iterable[PlantedScore]) -> Verdict:
    """The verdict on an attack from its scores."""
    attack = registry.load_attack(ref)
    return Verdict(attack.spec(), attack.stance, tuple(_knowledge(attack)), tuple(scores))


def known_verdict(key: str, cache_folder: Path) -> Verdict | None:
    """The verdict with this key, released or kept beside a run's victims; None where there is none, or a broken one."""
    released = released_verdicts()
    if key in released:
        return released[key]
    try:
        return Verdict.from_json(json.loads(_kept(key, cache_folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep_verdict(key: str, verdict: Verdict, cache_folder: Path) -> None:
    """Keep a verdict beside a run's victims.

    Raises:
        UserError: The folder cannot be written to.
    """
    write_atomically(_kept(key, cache_folder), _text(verdict.to_json()))


@cache
def released_verdicts() -> dict[str, Verdict]:
    """Verdicts that come with the package, by key; empty where there are none.

    Raises:
        UserError: The file cannot be read.
    """
    file = resources.files("results") / RELEASED
    if not file.is_file():
        return {}
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))["verdicts"]
        return {key: Verdict.from_json(value) for key, value in stated.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: cannot be read ({error}); install unsplit-bench again or delete it") from None


def write_verdicts(verdicts: Mapping[str, Verdict], file: Path) -> None:
    """Write verdicts for release.

    Raises:
        UserError: The file cannot be written.
    """
    made = {key: verdicts[key].to_json() for key in sorted(verdicts, key=lambda key: (verdicts[key].attack, key))}
    write_atomically(file, _text({"made_by": environment(), "verdicts": made}))


def with_verdict(record: Record, verdict: Verdict | None) -> Record:
    """The record with what came of its attack's planted clients, and a flag where it failed or nobody knows."""
    if verdict is None:
        return replace(record, run={**record.run, "planted": None}, flags=[*record.flags, UNKNOWN])
    summary = verdict.summary(record.axes.goals)
    flags = record.flags if summary["passed"] else [*record.flags, FAILED]
    return replace(record, run={**record.run, "planted": summary}, flags=list(flags))


def _kept(key: str, folder: Path) -> Path:
    return folder / "planted" / f"{key}.json"


def _text(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _knowledge(attack: Attack) -> list[str]:
    return sorted(str(known) for known in attack.knowledge() - {Knowledge.DEFENSE})


def _configured(cls: type[Attack], given: dict[str, Any]) -> Attack | None:
    # Not every option goes with every stance: what the class refuses is no variant of it.
    try:
        return cls.configured(planted_parameters(cls, given))
    except UserError:
        return None


def _options(cls: type[Attack]) -> Iterator[dict[str, Any]]:
    """Every choice of every parameter that is one of a few words, singly."""
    for name, field in cls.model_fields.items():
        if name != "stance":
            choices = (False, True) if field.annotation is bool else get_args(field.annotation)
            yield from ({name: choice} for choice in choices if isinstance(choice, str | bool))
