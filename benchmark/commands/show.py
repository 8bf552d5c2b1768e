"""`show`: everything a plug-in, data set or suite says about itself."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.catalogue import DATASETS
from benchmark.discovery import PACKAGES, Kind, listed
from benchmark.errors import UserError
from benchmark.parameters import Configured, nearest
from benchmark.spec import Spec, parse_spec
from benchmark.suite import load_suite, suite_files
from benchmark.verify import kind_of
from benchmark.view import threat_model

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from attacks.base import Attack

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}


def show(text: str) -> int:
    """Print what there is to know about a name or a file's plug-in.

    Raises:
        UserError: Nothing is called so.
    """
    parts = list(_found(text))
    if not parts:
        names = sorted({*DATASETS, *suite_files(), *(o.name for kind in PACKAGES for o in listed(kind))})
        raise UserError(f"nothing is called {text!r}{nearest(text, names)}; see `unsplit-bench list`")
    print("\n\n".join("\n".join(part) for part in parts))
    return 0


def _found(text: str) -> Iterator[list[str]]:
    spec = parse_spec(text)
    if spec.is_path:
        yield _plugin(kind_of(text), spec)
        return
    for kind in PACKAGES:
        if any(origin.name == spec.target for origin in listed(kind)):
            yield _model(spec) if kind == "model" else _plugin(kind, spec)
    if text in DATASETS:
        yield [f"data set {text}", "", f"  {DATASETS[text]}"]
    if text in suite_files():
        yield _suite(text)


def _plugin(kind: Kind, spec: Spec) -> list[str]:
    ref = registry.reference(kind, spec) if spec.parameters else None
    origin = registry.find(kind, spec.target)
    cls: type[Configured] = registry.plugin(kind, spec.target)
    lines = [f"{kind} {cls.name}, version {cls.version} ({origin.source})"]
    if ref is not None:
        lines.append(f"as asked for: {ref.changed or 'all defaults'}")
    lines += ["", *_indented(inspect.getdoc(cls) or "no docstring"), ""]
    lines += _attack(cls, spec) if kind == "attack" else _defense(cls)
    lines += ["", "parameters" if cls.model_fields else "no parameters"]
    for name, field in cls.model_fields.items():
        lines += _parameter(name, field)
    return lines


def _attack(cls: Any, spec: Spec) -> list[str]:
    required = [name for name, field in cls.model_fields.items() if field.is_required() and name not in spec.parameters]
    lines = [f"goals: {', '.join(cls.goals)}", f"role: {cls.role}", f"stances: {', '.join(cls.stances)}"]
    lines += [f"phases: {', '.join(cls.phases)}", f"topologies: {', '.join(cls.topologies)}"]
    if required:
        return [*lines, f"threat model: depends on {', '.join(required)}"]
    attack: Attack = cls.configured(dict(spec.parameters))
    return [*lines, f"threat model: {threat_model(attack.knowledge())}"]


def _defense(cls: Any) -> list[str]:
    from benchmark.cell import TRAINING_HOOKS

    hooks = (*TRAINING_HOOKS, "moved_cut", "attacker_model", "privacy")
    overridden = [hook for hook in hooks if cls.overrides(hook)]
    return [f"protects: {cls.side}", f"hooks: {', '.join(overridden) or 'none'}"]


def _parameter(name: str, field: FieldInfo) -> list[str]:
    bounds = [
        f"{sign} {getattr(item, key)}" for item in field.metadata for key, sign in _BOUNDS.items() if _has(item, key)
    ]
    default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
    about = ", ".join([type_text(field.annotation), *bounds, default])
    return [f"  {name}: {about}", *(["      " + field.description] if field.description else [])]


def type_text(annotation: Any) -> str:
    """A type as a user would say it: `float`, `joint | separate`, `list of float`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if part is type(None) else type_text(part) for part in arguments)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin in (list, tuple, set, frozenset):
        return f"{origin.__name__} of {' | '.join(type_text(part) for part in arguments if part is not ...)}"
    return getattr(annotation, "__name__", str(annotation))


def _has(item: object, key: str) -> bool:
    return getattr(item, key, None) is not None


def _model(spec: Spec) -> list[str]:
    factory = registry.plugin("model", spec.target)
    return [
        f"model {spec.target} ({registry.find('model', spec.target).source})",
        "",
        *_indented(inspect.getdoc(factory) or ""),
    ]


def _suite(name: str) -> list[str]:
    suite = load_suite(name)
    lines = [f"suite {name} (digest {suite.digest[:12]})", "", *_indented(suite.description)]
    for block in suite.blocks:
        tail = f", tail {block.tail}" if block.tail else ""
        lines += ["", f"block {block.name}: {block.topology}{tail}"]
        lines += [f"  data sets: {', '.join(block.datasets)}; models: {', '.join(block.models)}"]
        lines += [f"  cuts: {', '.join(block.cuts)}; seeds: {', '.join(map(str, block.seeds))}"]
        lines += [f"  defenses: {', '.join(' + '.join(_spec(one) for one in specs) for specs in block.defenses)}"]
        lines += [f"  attacks: {', '.join(_spec(entry.attack) for entry in block.attacks)}"]
    return lines


def _spec(spec: Spec) -> str:
    from benchmark.parameters import spec_text

    return spec_text(spec.target, dict(spec.parameters))


def _indented(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]
