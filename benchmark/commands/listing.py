"""`list`: names with one line each, without importing what is listed unless asked to."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from benchmark.catalogue import DATASETS
from benchmark.digest import HARNESS
from benchmark.discovery import Kind, listed

if TYPE_CHECKING:
    from benchmark.discovery import Origin

KINDS: dict[str, Kind] = {"attacks": "attack", "defenses": "defense", "models": "model"}


def list_names(what: str, *, check: bool) -> int:
    """Print all of a kind.

    Args:
        what: `suites`, `datasets`, `attacks`, `defenses` or `models`.
        check: Import every plug-in, to find the broken ones.

    Returns:
        2 if a plug-in is broken, else 0.
    """
    if what == "suites":
        _print_table(suite_lines())
        return 0
    if what == "datasets":
        _print_table(DATASETS.items())
        return 0
    origins = listed(KINDS[what])
    if check:
        from benchmark import registry

        origins = [registry.checked(origin) for origin in origins]
    _print_table((origin.name, _line(origin)) for origin in origins)
    broken = [origin for origin in origins if origin.error is not None]
    for origin in broken:
        print(
            f"\n{origin.kind} {origin.name} ({origin.source}) is broken:\n{textwrap.indent(origin.error or '', '  ')}"
        )
    return 2 if broken else 0


def suite_lines() -> Iterable[tuple[str, str]]:
    """The suites that come with the package and their descriptions, read without a YAML parser."""
    for path in sorted((HARNESS / "suites").glob("*.yaml")):
        found = re.search(r"^description:[ \t]*(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        yield path.stem, (found[1].strip().strip("\"'") if found else "")


def _line(origin: Origin) -> str:
    source = "" if origin.source == "builtin" else f" [{origin.source}]"
    return ("BROKEN, see below" if origin.error is not None else origin.summary) + source


def _print_table(rows: Iterable[tuple[str, str]]) -> None:
    listed_rows = list(rows)
    if not listed_rows:
        print("none")
        return
    left = max(len(name) for name, _ in listed_rows) + 2
    width = max(shutil.get_terminal_size((100, 24)).columns, left + 30)
    for name, text in listed_rows:
        lines = textwrap.wrap(text, width - left) or [""]
        print(f"{name:{left}}{lines[0]}".rstrip())
        for line in lines[1:]:
            print(" " * left + line)
