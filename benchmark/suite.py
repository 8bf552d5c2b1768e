"""Suites: which victims meet which attacks. A suite is a YAML file, frozen once released."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmark.cell import canonical_json
from benchmark.digest import HARNESS
from benchmark.errors import UserError
from benchmark.parameters import nearest
from benchmark.strict_yaml import load_yaml
from benchmark.suite_format import AttackEntry, Block, Schedule, Suite, Targets, Watching

FOLDER = HARNESS / "suites"


def load_suite(name: str | Path) -> Suite:
    """The suite that comes with the package under this name, or in this file.

    Args:
        name: `smoke-v1`, or the path of a `.yaml` file.

    Raises:
        UserError: No such suite, or a mistake in its file; names file, key, allowed values and the nearest.
    """
    path = _path(str(name))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"suite {path}: cannot be read ({error}); check the file") from None
    return read_suite(text, path)


def read_suite(text: str, path: Path) -> Suite:
    """The suite that a YAML text describes; `path` names it in errors, and its relative paths start beside it.

    Raises:
        UserError: As `load_suite`.
    """
    value = load_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no suite; write name:, dataset:, model:, seeds: and blocks:")
    _check_plain(value, "", path)
    digest = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    try:
        return Suite.model_validate({**_spread(value, path), "digest": digest, "folder": path.resolve().parent})
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error, value)}") from None


def suite_files() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def _path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"suite {name!r}: there is no such file; check the path")
        return path
    known = suite_files()
    if name not in known:
        raise UserError(
            f"there is no suite {name!r}{nearest(name, list(known))}; choose one of: {', '.join(known) or 'none'}; "
            "or give a file that ends in .yaml"
        )
    return known[name]


_SHARED = {"dataset": "datasets", "model": "models", "seeds": "seeds", "training": "training"}


def _spread(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """Hand what the suite says for all blocks to those that say nothing of their own."""
    shared = _plural({key: value[key] for key in (*_SHARED, *_SHARED.values()) if key in value}, str(path))
    rest = {key: item for key, item in value.items() if key not in (*_SHARED, *_SHARED.values())}
    if isinstance(rest.get("blocks"), list):
        defaults = {"training": {}, **shared}
        rest["blocks"] = tuple(
            {"name": f"block {index}", **defaults, **_plural(block, f"{path}: blocks[{index}]")}
            if isinstance(block, dict)
            else block
            for index, block in enumerate(rest["blocks"])
        )
    return rest


def _plural(block: dict[str, Any], where: str) -> dict[str, Any]:
    """`dataset: x` is a short way to write `datasets: [x]`; the same for models."""
    block = dict(block)
    for one in ("dataset", "model"):
        if one in block:
            if f"{one}s" in block:
                raise UserError(f"{where}: gives both {one} and {one}s; keep one")
            block[f"{one}s"] = [block.pop(one)]
    return block


def _check_plain(value: object, place: str, path: Path) -> None:
    """Refuse what has no place in a suite: keys that are no texts, and what only Python writes."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{path}: {f'{place}: ' if place else ''}key {key!r} is not a text; write it in quotes")
            if not place and key in ("digest", "folder"):
                raise UserError(f"{path}: {key}: there is no such key; remove it")
            _check_plain(item, f"{place}.{key}" if place else key, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{place}[{index}]", path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: {place}: {value} is not a finite number; write one")


def _sentence(error: ValidationError, value: dict[str, Any]) -> str:
    """The first mistake, with its place as the file writes it (`blocks[2].cuts[0]`), and how many others there are."""
    items = error.errors()
    places = [item["loc"] for item in items]
    problems = dict.fromkeys(
        _place(_as_written(item["loc"], value)) + _problem(item)
        # A misspelt key first: what it leaves missing follows from it. A list is "too short" when its items are wrong.
        for item in sorted(items, key=lambda item: item["type"] != "extra_forbidden")
        if item["type"] != "too_short" or not any(_inside(place, item["loc"]) for place in places)
    )
    first, *others = problems
    return first + (f" (and {len(others)} more)" if others else "")


def _inside(place: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(place) > len(outer) and tuple(place[: len(outer)]) == tuple(outer)


def _as_written(location: Sequence[str | int], value: dict[str, Any]) -> Sequence[str | int]:
    """What every block was handed from the top is a mistake at the top, not in each block."""
    if len(location) < 3 or location[0] != "blocks":
        return location
    key = str(location[2])
    names = {key, key.removesuffix("s")}
    block = value["blocks"][location[1]]
    given_above = names & set(_SHARED) and names & set(value) and not names & set(block)
    return location[2:] if given_above else location


def _place(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


_HOLDERS: dict[str, type[BaseModel]] = {
    "blocks": Block,
    "attacks": AttackEntry,
    "training": Schedule,
    "targets": Targets,
    "watch": Watching,
}


def _problem(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        holder = next((_HOLDERS[part] for part in reversed(parents) if part in _HOLDERS), Suite)
        allowed = set(holder.model_fields) - {"digest", "folder"}
        if holder in (Suite, Block):
            allowed |= {*_SHARED, *_SHARED.values()}
        return f": there is no such key{nearest(str(key), sorted(allowed))}; allowed are: {', '.join(sorted(allowed))}"
    if item["type"] == "missing":
        key = str(item["loc"][-1])
        return f": is missing; write it there{' or at the top' if key in _SHARED.values() else ''}"
    if item["type"] == "too_short":
        return ": is an empty list; write at least one item"
    if item["type"] in ("model_type", "model_attributes_type"):
        return f": should be a mapping, key: value, not {item['input']!r}"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("valid tuple", "list")
    if item["type"] != "value_error":
        return f": {message}, not {item['input']!r}"
    # A message that starts with a place of its own continues the place.
    return message if message[0] in ".[" else f": {message}"
