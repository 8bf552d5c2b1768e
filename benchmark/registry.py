"""Loads plug-ins, and writes each down as a value that another process can load."""

from __future__ import annotations

import functools
import importlib
import inspect
import textwrap
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmark import discovery
from benchmark.digest import code_digest, has_relative_imports, source_digest
from benchmark.discovery import PACKAGES, Kind, registered
from benchmark.discovery import Origin as Origin
from benchmark.discovery import find as find
from benchmark.errors import PluginError, UserError
from benchmark.plugin_files import import_file
from benchmark.spec import Spec, from_yaml

if TYPE_CHECKING:
    from attacks.base import Attack
    from benchmark.cell import PluginRef
    from benchmark.models import Factory
    from benchmark.parameters import Configured
    from defenses.base import Defense

_BASES = {"attack": "Attack", "defense": "Defense"}


def listed(kind: Kind, *, check: bool = False) -> list[Origin]:
    """All plug-ins of a kind that have a name; with `check` each is imported and a failure's traceback kept."""
    origins = discovery.listed(kind)
    return [checked(origin) for origin in origins] if check else origins


def checked(origin: Origin) -> Origin:
    """The origin with the traceback of its import, if that fails."""
    if origin.error is not None:
        return origin
    try:
        _loaded(origin)
    except Exception:
        return replace(origin, error=traceback.format_exc())
    return origin


def plugin(kind: Kind, text: str, folder: Path | None = None) -> Any:
    """The class (attack, defense) or factory (model) called `text`.

    Raises:
        UserError: There is none, or it cannot be imported.
    """
    return _loaded(find(kind, text, folder)).thing


def reference(kind: Kind, text: object, folder: Path | None = None) -> PluginRef:
    """A plug-in with its parameters, as a value with a digest of its code.

    Args:
        kind: `attack`, `defense` or `model`.
        text: `gaussian_noise:sigma=0.5`, `./mine.py:MyDefense:strength=2`, a `Spec`, what a suite writes
            (`{gaussian_noise: {sigma: 0.5}}`), or a live instance of an attack or defense.
        folder: What a relative path starts from; the working directory by default.

    Raises:
        UserError: No such plug-in, one that cannot be imported, or parameters it does not take.
    """
    if not isinstance(text, (str, dict, Spec)):
        return reference_of(cast("Configured", text))
    spec = text if isinstance(text, Spec) else from_yaml(text)
    loaded = _loaded(find(kind, spec.target, folder))
    if kind == "model":
        if spec.parameters:
            raise UserError(f"model {spec.target} takes no parameters; give a factory of your own, path.py:factory")
        return _reference(loaded, spec.target if loaded.origin.module else loaded.thing.__name__, {}, "")
    return _of_instance(loaded, loaded.thing.configured(dict(spec.parameters)))


def reference_of(instance: Configured) -> PluginRef:
    """The same for a live instance of an attack or a defense.

    A class that another process cannot import (defined in `__main__`, in a function or in a notebook) has the source
    `live` and loads in this process only.

    Raises:
        UserError: It is neither an attack nor a defense.
    """
    cls = type(instance)
    kind = _kind_of(cls)
    if cls.__module__.rpartition(".")[0] == PACKAGES[kind]:
        return reference(kind, Spec(cls.name, instance.parameters()))
    loaded = _live_plugin(kind, cls)
    _live[kind, loaded.digest] = loaded
    return _of_instance(loaded, instance)


def load_attack(ref: PluginRef) -> Attack:
    """The attack that `ref` stands for, with its parameters.

    Raises:
        UserError: It is not there any more, or its code has changed since `ref` was made.
    """
    return cast("Attack", _load(ref).configured(ref.parameters))


def load_defense(ref: PluginRef) -> Defense:
    """The defense that `ref` stands for, with its parameters.

    Raises:
        UserError: It is not there any more, or its code has changed since `ref` was made.
    """
    return cast("Defense", _load(ref).configured(ref.parameters))


def load_model(ref: PluginRef) -> Factory:
    """The model's factory that `ref` stands for.

    Raises:
        UserError: It is not there any more, or its code has changed since `ref` was made.
    """
    return cast("Factory", _load(ref))


@dataclass(frozen=True)
class _Loaded:
    origin: Origin
    thing: Any
    digest: str


_live: dict[tuple[Kind, str], _Loaded] = {}


def _load(ref: PluginRef) -> Any:
    if (ref.kind, ref.digest) in _live:
        return _live[ref.kind, ref.digest].thing
    if ref.source == "live":
        raise PluginError(
            f"{ref.kind} {ref.name} was defined in another process and has no file; put it into a file, path.py:Class"
        )
    path = Spec(ref.source).is_path
    loaded = _loaded(find(ref.kind, ref.source if path else ref.name))
    if loaded.digest != ref.digest:
        raise PluginError(f"{ref.kind} {ref.name}: its code ({ref.source}) changed since the plan was made; run again")
    return loaded.thing


def _loaded(origin: Origin) -> _Loaded:
    if origin.module:
        return _loaded_module(origin)
    return _loaded_file(origin)


@functools.cache
def _loaded_module(origin: Origin) -> _Loaded:
    try:
        module = importlib.import_module(origin.module)
    except (Exception, SystemExit) as error:
        raise _import_failure(origin, error) from error
    thing = _the_plugin(origin, module)
    file = Path(inspect.getfile(thing))
    # The file of the built-in models holds parts of the harness too.
    alone = origin.kind == "model" and origin.source == "builtin"
    return _Loaded(origin, thing, code_digest(file, thing.__name__, alone=alone))


def _loaded_file(origin: Origin) -> _Loaded:
    assert origin.file is not None
    # The two contracts first: a folder of the user's may hold an `attacks` of its own.
    importlib.import_module("attacks.base")
    importlib.import_module("defenses.base")
    digest = code_digest(origin.file, origin.object)
    try:
        module = import_file(origin.file, digest)
    except (Exception, SystemExit) as error:
        raise _import_failure(origin, error) from error
    thing = _the_plugin(origin, module)
    name = origin.object or thing.__name__
    source = f"{origin.file}:{name}"
    return _Loaded(replace(origin, object=name, source=source), thing, code_digest(origin.file, name))


def _the_plugin(origin: Origin, module: Any) -> Any:
    where = f"{origin.kind} {origin.file or origin.module}"
    if origin.object:
        thing = functools.reduce(lambda at, name: getattr(at, name, None), origin.object.split("."), module)
        if thing is None:
            raise PluginError(f"{where}: defines no {origin.object!r}; check the name")
    elif origin.kind == "model":
        raise PluginError(f"{where}: name the factory, {origin.file or origin.module}:factory")
    else:
        here = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
        things = [thing for thing in here if _is_plugin(origin.kind, thing) and not thing.__name__.startswith("_")]
        if len(things) != 1:
            found = ", ".join(thing.__name__ for thing in things) or "none"
            raise PluginError(
                f"{where}: holds {len(things)} {origin.kind} classes ({found}); "
                f"name one, {origin.file or origin.module}:Class"
            )
        thing = things[0]
    if origin.kind == "model":
        if not callable(thing):
            raise PluginError(f"{where}: {origin.object} is no factory; give a function of (image_shape, n_classes)")
    elif not _is_plugin(origin.kind, thing):
        base = _BASES[origin.kind]
        raise PluginError(f"{where}: {origin.object} is no {origin.kind}; derive it from {base}")
    elif not isinstance(getattr(thing, "name", None), str):
        raise PluginError(f'{where}: {thing.__name__} has no name; add name: ClassVar[str] = "my_{origin.kind}"')
    return thing


def _is_plugin(kind: Kind, thing: object) -> bool:
    base = getattr(importlib.import_module(f"{PACKAGES[kind]}.base"), _BASES[kind])
    return isinstance(thing, type) and issubclass(thing, base) and thing is not base


def _import_failure(origin: Origin, error: BaseException) -> PluginError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{last.filename}, line {last.lineno}"
    message = " ".join(str(error).split())
    return PluginError(
        f"{origin.kind} {origin.file or origin.name} cannot be imported: {type(error).__name__}: {message} ({at}); "
        "correct it there"
    )


def _kind_of(cls: type) -> Kind:
    for kind in ("attack", "defense"):
        if _is_plugin(kind, cls):
            return kind
    raise UserError(f"{cls.__name__} is neither an attack nor a defense; derive it from Attack or Defense")


def _of_instance(loaded: _Loaded, instance: Configured) -> PluginRef:
    changed = instance.spec().partition(":")[2]
    return _reference(loaded, instance.name, instance.parameters(), changed)


def _reference(loaded: _Loaded, name: str, parameters: dict[str, Any], changed: str) -> PluginRef:
    from benchmark.cell import TRAINING_HOOKS, PluginRef

    kind = loaded.origin.kind
    trains = kind == "defense" and any(loaded.thing.overrides(hook) for hook in TRAINING_HOOKS)
    version = 1 if kind == "model" else loaded.thing.version
    return PluginRef(kind, name, parameters, changed, loaded.origin.source, version, loaded.digest, trains)


def _file_of(cls: type) -> Path | None:
    try:
        file = Path(inspect.getfile(cls))
    except (TypeError, OSError):
        return None
    return file.resolve() if file.is_file() else None


def _live_plugin(kind: Kind, cls: type[Configured]) -> _Loaded:
    registered = _entry_point_of(kind, cls)
    if registered is not None:
        return _loaded(registered)
    file = _file_of(cls)
    if file is not None and "." not in cls.__qualname__:
        # Importing the main script again would run it again.
        importable = cls.__module__ != "__main__" and not has_relative_imports(file)
        source = f"{file}:{cls.__name__}" if importable else "live"
        return _Loaded(Origin(kind, cls.name, source, cls.__name__), cls, code_digest(file, cls.__name__))
    try:
        digest = source_digest(textwrap.dedent(inspect.getsource(cls)), cls.__name__)
    except (OSError, TypeError, SyntaxError):
        raise PluginError(
            f"{cls.__name__}: its source cannot be read, so its results could not be told from another's; "
            "put the class into a file"
        ) from None
    return _Loaded(Origin(kind, cls.name, "live", cls.__qualname__), cls, digest)


def _entry_point_of(kind: Kind, cls: type) -> Origin | None:
    for origin in registered(kind):
        if (origin.module, origin.object) == (cls.__module__, cls.__qualname__):
            return origin
    return None
