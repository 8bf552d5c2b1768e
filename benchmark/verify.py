"""Runs a plug-in against the contract and says in words what is wrong; the same checks test every built-in.

An attack has to succeed on planted clients besides: `planted_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.contract.attack import attack_checks, shortest
from benchmark.contract.check import Check
from benchmark.contract.defense import defense_checks
from benchmark.contract.text import examples, text_checks
from benchmark.discovery import Kind, listed
from benchmark.errors import UserError
from benchmark.planted import meet, planted_clients, planted_parameters
from benchmark.spec import Spec, parse_spec

if TYPE_CHECKING:
    from attacks.base import Attack
    from benchmark.parameters import Configured

_TOO_LITTLE = (
    "it fails where nothing is hidden, so that its failures will not count and every table says so; "
    "correct it, or give it a larger budget in its class: planted: ClassVar[Mapping[str, object]] = {...}"
)
_NO_CLIENT = 'no planted client fits its goals; write goals: ClassVar[...] = ("reconstruct",), see attacks.base'


def verify(kind: Kind, text: str | Spec, folder: Path | None = None) -> Iterator[Check]:
    """Every check of the contract, one after the other as they are run.

    What the class says about itself comes first; where that is wrong already, nothing is run.

    Args:
        kind: `attack` or `defense`.
        text: As on the command line, `./mine.py:MyDefense:strength=2`.
        folder: What a relative path starts from.

    Required parameters that are not set take their first example, and an attack's whole numbers their lowest value, so
    that it takes seconds.

    Raises:
        UserError: There is no such plug-in, or it cannot be imported.
    """
    spec = text if isinstance(text, Spec) else parse_spec(text)
    cls: type[Configured] = registry.plugin(kind, spec.target, folder)
    parameters: dict[str, Any] = dict(spec.parameters)
    if set(parameters) - set(cls.model_fields):
        cls.configured(parameters)
    sound = True
    for check in text_checks(kind, cls, parameters):
        sound = sound and check.problem is None
        yield check
    if not sound:
        return
    tried = Spec(spec.target, examples(cls, parameters))
    if kind == "attack":
        tried = Spec(spec.target, shortest(cls, dict(tried.parameters)))
        yield from attack_checks(registry.reference(kind, tried, folder))
    else:
        yield from defense_checks(registry.reference(kind, tried, folder))


def planted_checks(text: str | Spec, folder: Path | None = None) -> Iterator[Check]:
    """Every planted client of an attack, in each of its stances, as they are met: score, demand, steps and seconds.

    The first check of a stance names the budget: the parameters given, then what the class states in `planted`.

    Args:
        text: As on the command line; a stance that is given is the only one.
        folder: What a relative path starts from.

    Raises:
        UserError: There is no such attack, it cannot be imported, or it does not take the parameters.
    """
    spec = text if isinstance(text, Spec) else parse_spec(text)
    cls: type[Attack] = registry.plugin("attack", spec.target, folder)
    given = dict(spec.parameters)
    for stance in [given["stance"]] if "stance" in given else cls.stances:
        parameters = planted_parameters(cls, {**given, "stance": stance})
        ref = registry.reference("attack", Spec(spec.target, parameters), folder)
        clients = planted_clients(registry.load_attack(ref))
        budget = ref.changed or "defaults"
        yield Check(f"{stance}: {len(clients)} planted clients, budget {budget}", None if clients else _NO_CLIENT)
        for client in clients:
            for score in meet(ref, client):
                problem = None if score.passed else _TOO_LITTLE
                yield Check(f"{stance}: {score.sentence()}", problem)


def kind_of(text: str) -> Kind:
    """Whether a name or file is an attack or a defense.

    Raises:
        UserError: It is neither, or cannot be imported.
    """
    spec = parse_spec(text)
    problems = []
    for kind in ("defense", "attack"):
        if not spec.is_path:
            if any(origin.name == spec.target for origin in listed(kind)):
                return kind
            continue
        try:
            registry.plugin(kind, spec.target)
        except UserError as error:
            problems.append(error)
        else:
            return kind
    if not spec.is_path:
        names = ", ".join(sorted(origin.name for kind in ("defense", "attack") for origin in listed(kind)))
        raise UserError(f"there is no attack or defense {spec.target!r}; choose one of: {names}; or give path.py:Class")
    if "derive it from" in str(problems[0]) or "holds 0" in str(problems[0]):
        raise UserError(f"{spec.target}: is neither an attack nor a defense; derive its class from Attack or Defense")
    raise problems[0]
