"""Plans as they were made the last time: what is only looked up needs neither PyTorch nor a data set in memory.

A plan is kept in the user's cache, a file for each thing asked for, with the state of all that it was made from: this
program's files, the libraries that plug-ins are written with, and the files of the data sets. In another state it is
made again. Any of the files may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cell import Plan, canonical_json
from benchmark.digest import HARNESS
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.locations import cache_home, data_state, listed

if TYPE_CHECKING:
    from benchmark.suite_format import Suite

FOLDER = "plans"
_CODE = ("attacks", "benchmark", "defenses")
_LIBRARIES = ("torch", "pydantic", "opacus")


def kept_plan(suite: Suite, outside: Sequence[str], root: Path | None, make: Callable[[], Plan]) -> Plan:
    """The plan that `make` gives, from its copy where nothing has changed since.

    Plans with a plug-in from outside this package are made every time: what its code imports is known only to who
    reads it. So are those of data sets that are not on this machine.

    Args:
        suite: What is planned.
        outside: Defenses and attacks that join it, as they were typed.
        root: Folder of the data sets, or None for the environment's.
        make: Makes the plan.

    Raises:
        UserError: Whatever `make` raises. A copy that is broken or cannot be written raises nothing.
    """
    state = _state(suite, root)
    if state is None:
        return make()
    path = cache_home() / FOLDER / f"{_digest([suite.name, str(suite.folder), *outside])}.json"
    known = _read(path, state)
    if known is not None:
        return known
    plan = make()
    if _built_in(plan):
        text = canonical_json(plan.to_json())
        # A full disk or a read-only home costs time at the next start, not this result.
        with suppress(UserError):
            write_atomically(path, f"{state} {_digest(text)}\n{text}".encode())
    return plan


def _state(suite: Suite, root: Path | None) -> str | None:
    data = [data_state(name, root) for name in sorted({name for block in suite.blocks for name in block.datasets})]
    if None in data:
        return None
    code = [sorted(listed(str(HARNESS / folder), ending=".py")) for folder in _CODE]
    return _digest([suite.digest, data, code, sys.version, [_version(name) for name in _LIBRARIES]])


def _read(path: Path, state: str) -> Plan | None:
    try:
        head, _, text = path.read_text(encoding="utf-8").partition("\n")
        return Plan.from_json(json.loads(text)) if head == f"{state} {_digest(text)}" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _built_in(plan: Plan) -> bool:
    refs = (ref for c in plan.cells for ref in (c.attack, c.assumed, c.victim.model, *c.victim.defenses))
    return all(ref is None or ref.source == "builtin" for ref in refs)


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogateescape")).hexdigest()
