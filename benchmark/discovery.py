"""Finds plug-ins without importing them: built in, registered by an installed package, or in a file of the user's.

Names and summaries are read from the syntax tree, so that listing is quick and a broken plug-in is
listed with its fault.
"""

from __future__ import annotations

import ast
import functools
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from benchmark.digest import HARNESS
from benchmark.errors import UserError
from benchmark.spec import Spec

Kind = Literal["attack", "defense", "model"]
PACKAGES: dict[Kind, str] = {"attack": "attacks", "defense": "defenses", "model": "models"}
_MODELS_FILE = HARNESS / "benchmark" / "models.py"


@dataclass(frozen=True)
class Origin:
    """Where a plug-in comes from.

    Attributes:
        kind: `attack`, `defense` or `model`.
        name: What it is called; for a file of the user's, its text as it was asked for.
        source: `builtin`, `entry point DISTRIBUTION`, an absolute `path.py:Class`, or `live` (a class without a file).
        object: Class or factory; empty where it is not known before loading.
        module: What to import; empty for a file of the user's.
        file: Its file, where known.
        summary: First line of its docstring.
        error: Traceback of what is wrong with it, or None.
    """

    kind: Kind
    name: str
    source: str
    object: str
    module: str = ""
    file: Path | None = None
    summary: str = ""
    error: str | None = None


def listed(kind: Kind) -> list[Origin]:
    """All plug-ins of a kind that have a name, built-in ones first, each group by name.

    One whose file cannot be read, or that another hides, says so in `error`.
    """
    built_in = sorted(_built_in(kind), key=lambda origin: origin.name)
    taken = {origin.name for origin in built_in}
    others = []
    for origin in sorted(registered(kind), key=lambda origin: origin.name):
        hidden = f"hidden by another {kind} called {origin.name!r}; rename the entry point"
        others.append(replace(origin, error=hidden) if origin.name in taken else origin)
        taken.add(origin.name)
    return built_in + others


def find(kind: Kind, text: str, folder: Path | None = None) -> Origin:
    """The plug-in called `text`, or in the file `path.py`, `path.py:Class`.

    Args:
        kind: `attack`, `defense` or `model`.
        text: Without parameters.
        folder: What a relative path starts from; the working directory by default.

    Raises:
        UserError: There is none; names the nearest and all that exist, or the missing file.
    """
    spec = Spec(text)
    if spec.is_path:
        return in_file(kind, text, folder or Path.cwd())
    # A plan and its cells look up hundreds: a built-in one, which wins over others, is found by its file alone.
    if kind == "model":
        for origin in _built_in_models(_MODELS_FILE.stat().st_mtime_ns):
            if origin.name == text:
                return origin
    file = HARNESS / PACKAGES[kind] / f"{text}.py"
    if text.isidentifier() and file.is_file() and (found := _in_package(kind, file, file.stat().st_mtime_ns)):
        return found
    origins = {origin.name: origin for origin in reversed(listed(kind))}
    if text in origins:
        return origins[text]
    from benchmark.parameters import nearest

    names = sorted(origins)
    raise UserError(
        f"there is no {kind} {text!r}{nearest(text, names)}; choose one of: {', '.join(names)}; "
        f"or give a file, path.py:{'factory' if kind == 'model' else 'Class'}"
    )


def in_file(kind: Kind, text: str, folder: Path) -> Origin:
    """The plug-in in a file, `path.py` or `path.py:Class`.

    Raises:
        UserError: There is no such file.
    """
    location, _, name = text.partition(".py:") if ".py:" in text else (text.removesuffix(".py"), "", "")
    file = (folder / Path(f"{location}.py").expanduser()).resolve()
    if not file.is_file():
        raise UserError(f"{kind} {text!r}: there is no file {file}; check the path")
    return Origin(kind, text, f"{file}:{name}" if name else str(file), name, "", file)


def _built_in(kind: Kind) -> Iterator[Origin]:
    if kind == "model":
        yield from _built_in_models(_MODELS_FILE.stat().st_mtime_ns)
        return
    for file in sorted((HARNESS / PACKAGES[kind]).glob("*.py")):
        found = _in_package(kind, file, file.stat().st_mtime_ns)
        if found is not None:
            yield found


@functools.lru_cache(maxsize=256)
def _in_package(kind: Kind, file: Path, modified: int) -> Origin | None:
    """The plug-in in a file of the built-in package, as it was when modified, or None where there is none."""
    if file.stem in ("base", "__init__") or file.stem.startswith("_"):
        return None
    origin = Origin(kind, file.stem, "builtin", "", f"{PACKAGES[kind]}.{file.stem}", file)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except (SyntaxError, ValueError):
        return replace(origin, error=traceback.format_exc())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and _named(node):
            return replace(origin, object=node.name, summary=_summary(node))
    return None


@functools.lru_cache(maxsize=1)
def _built_in_models(modified: int) -> tuple[Origin, ...]:
    """The models in the file of the built-in ones, as it was when modified."""
    tree = ast.parse(_MODELS_FILE.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "MODELS"
    ]
    found = []
    for table in tables:
        assert isinstance(table, ast.Dict)
        for key, value in zip(table.keys, table.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Name):
                summary = _summary(functions[value.id])
                where = ("builtin", value.id, "benchmark.models", _MODELS_FILE)
                found.append(Origin("model", str(key.value), *where, summary))
    return tuple(found)


def registered(kind: Kind) -> Iterator[Origin]:
    """Plug-ins that installed packages register under `unsplit_bench.attacks`, `.defenses` or `.models`."""
    for entry in metadata.entry_points(group=f"unsplit_bench.{PACKAGES[kind]}"):
        distribution = entry.dist.name if entry.dist else "unknown"
        yield Origin(kind, entry.name, f"entry point {distribution}", entry.attr, entry.module)


def _named(node: ast.ClassDef) -> bool:
    """Whether the class gives itself a name, as every plug-in does."""
    targets: list[ast.expr] = []
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets.append(statement.target)
    return any(isinstance(target, ast.Name) and target.id == "name" for target in targets)


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]
