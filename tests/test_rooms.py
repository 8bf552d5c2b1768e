"""Who may import whom: data flows one way, and the harness knows no particular attack or defense."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN_FILES = [path for room in ("attacks", "defenses") for path in sorted((ROOT / room).rglob("*.py"))]
HARNESS_FILES = sorted((ROOT / "benchmark").rglob("*.py"))
# What carries out a run is no business of an attack or a defense.
CLOSED = (
    "cli",
    "commands",
    "executors",
    "run",
    "runner",
    "store",
    "plan",
    "suite",
    "leaderboard",
    "gate",
    "report",
    "victim",
)
# Knows the contracts, because it tells a plug-in from any other class.
KNOWS_CONTRACTS = ("registry.py", "verify.py", "contract", "scaffold.py")


def imports(path: Path) -> Iterator[str]:
    """Modules a file imports when it runs; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_attacks_and_defenses_know_no_store_and_no_command_line(path: Path) -> None:
    closed = tuple(f"benchmark.{room}" for room in CLOSED)
    assert not [name for name in imports(path) if any(name == c or name.startswith(f"{c}.") for c in closed)]


@pytest.mark.parametrize("path", HARNESS_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_harness_knows_no_particular_attack_or_defense(path: Path) -> None:
    plugins = [name for name in imports(path) if name.split(".")[0] in ("attacks", "defenses")]
    if any(part in KNOWS_CONTRACTS for part in path.relative_to(ROOT / "benchmark").parts):
        plugins = [name for name in plugins if name.split(".")[1] != "base"]
    assert not plugins
