"""What can be told about a plug-in's class without running it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args

from benchmark.contract.check import BrokenContractError, Check, tried
from benchmark.discovery import Kind
from benchmark.parameters import Configured
from benchmark.spec import parse_spec

_CITATION = re.compile(r"(?:19|20)\d\d|arxiv|own work", re.IGNORECASE)
_BASE_ATTRIBUTES = {"defense": ("side",), "attack": ("goals", "stances", "role", "phases", "topologies")}


def text_checks(kind: Kind, cls: type[Configured], parameters: dict[str, Any]) -> Iterator[Check]:
    """Name, version, docstring, parameters, signatures and class attributes.

    Args:
        kind: `attack` or `defense`.
        cls: The plug-in.
        parameters: What the user set.
    """
    yield tried("it has a name", lambda: _name(cls))
    yield tried("it has a version", lambda: _version(cls))
    yield tried("its docstring says what it does and where it comes from", lambda: _docstring(cls))
    yield tried("every parameter is described", lambda: _described(cls))
    yield tried("its parameters can be written down and read back", lambda: _round_trip(cls, parameters))
    yield tried("its hooks have the contract's signatures", lambda: _signatures(kind, cls))
    yield tried(
        f"it says what an {kind} must say" if kind == "attack" else "it says what a defense must say",
        lambda: _attributes(kind, cls),
    )


def _name(cls: type[Configured]) -> None:
    if "name" in cls.model_fields:
        raise BrokenContractError('name is a parameter; write name: ClassVar[str] = "..."')
    if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.name):
        raise BrokenContractError(f"name {cls.name!r} is not lower_case_with_underscores; rename it")


def _version(cls: type[Configured]) -> None:
    if "version" in cls.model_fields:
        raise BrokenContractError("version is a parameter; write version: ClassVar[int] = 1")
    if not isinstance(cls.version, int) or isinstance(cls.version, bool) or cls.version < 1:
        raise BrokenContractError(
            f"version {cls.version!r} is no positive whole number; write version: ClassVar[int] = 1"
        )


def _docstring(cls: type[Configured]) -> None:
    own = cls.__doc__ or ""
    if len(own.strip().partition("\n")[0]) < 10:
        raise BrokenContractError(
            "there is no docstring of its own; say in one line what it does, then cite its source"
        )
    if not _CITATION.search(own):
        raise BrokenContractError('the docstring cites nothing; name authors and year, or write "Own work."')


def _described(cls: type[Configured]) -> None:
    contract = {attribute for attributes in _BASE_ATTRIBUTES.values() for attribute in attributes}
    bare = [name for name, field in cls.model_fields.items() if not field.description and name not in contract]
    if bare:
        raise BrokenContractError(
            f"no description: {', '.join(bare)}; "
            f'write {bare[0]}: ... = Field(default, description="what it is, its unit")'
        )


def examples(cls: type[Configured], parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters with an example for each required one that was not set.

    Raises:
        BrokenContractError: There is none.
    """
    needed = {name: field for name, field in cls.model_fields.items() if field.is_required() and name not in parameters}
    for name, field in needed.items():
        if not field.examples:
            raise BrokenContractError(
                f"parameter {name} is required and has no example; write Field(..., examples=[...])"
            )
    return {**parameters, **{name: (field.examples or [])[0] for name, field in needed.items()}}


def _round_trip(cls: type[Configured], parameters: dict[str, Any]) -> None:
    instance = cls.configured(examples(cls, parameters))
    again = cls.configured(dict(parse_spec(instance.spec()).parameters))
    if again.parameters() != instance.parameters():
        raise BrokenContractError(
            f"{instance.spec()} is read back as {again.spec()}; use plain numbers, texts and lists"
        )


def _signatures(kind: Kind, cls: type[Configured]) -> None:
    base = next(parent for parent in cls.__mro__ if parent.__name__ == kind.capitalize())
    for name, hook in inspect.getmembers(base, inspect.isfunction):
        if name.startswith("_") or hasattr(Configured, name):
            continue
        wanted = list(inspect.signature(hook).parameters)
        found = list(inspect.signature(getattr(cls, name)).parameters)
        if wanted != found:
            raise BrokenContractError(f"{name}({', '.join(found)}) should be {name}({', '.join(wanted)})")


def _attributes(kind: Kind, cls: Any) -> None:
    for name in _BASE_ATTRIBUTES[kind]:
        if name in cls.model_fields:
            raise BrokenContractError(f"{name} is a parameter; write {name}: ClassVar[...] = ...")
        if getattr(cls, name, None) is None:
            raise BrokenContractError(f"{name} is missing; write {name}: ClassVar[...] = ..., see {kind}s.base")
    if kind == "defense":
        from defenses.base import Side

        _among("side", [cls.side], get_args(Side))
        return
    from attacks.base import Goal, Stance
    from benchmark.view import Phase, Topology

    _among("goals", cls.goals, get_args(Goal))
    _among("stances", cls.stances, get_args(Stance))
    _among("role", [cls.role], ("attack", "reference"))
    _among("phases", cls.phases, get_args(Phase))
    _among("topologies", cls.topologies, get_args(Topology))


def _among(name: str, values: Any, allowed: tuple[str, ...]) -> None:
    if isinstance(values, str) or not values:
        raise BrokenContractError(
            f'{name} is {values!r}; write a tuple of some of {", ".join(allowed)}, ("{allowed[0]}",)'
        )
    for value in values:
        if value not in allowed:
            raise BrokenContractError(f"{name}: {value!r} is none of {', '.join(allowed)}")
