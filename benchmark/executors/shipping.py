"""What a run needs of this machine's code, as a folder that can be sent to another: the harness and plug-in files.

Shipped are this installation's own packages, so that no node runs another version, and of a plug-in given by path
exactly what its digest covers: its file and the local Python files it imports. Everything else must be there already:
Python, installed libraries (plug-ins that are entry points included), data sets, and other files that a plug-in reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.digest import HARNESS, code_digest, local_files
from benchmark.errors import PluginError
from benchmark.spec import Spec

if TYPE_CHECKING:
    from benchmark.cell import Cell, Group, PluginRef

_PACKAGES = ("benchmark", "attacks", "defenses", "suites", "results")
# Of the released results only what lies beside the package's own module; a suite's tables are of no use to a worker.
_SHALLOW = ("results",)
_PLUGINS = "plugins"


def pack(folder: Path, groups: Iterable[Group]) -> dict[str, str]:
    """Copy into `folder` the harness and the plug-in files that the groups name by path.

    Returns:
        Where in the folder the plug-in with a digest lies, `path.py:Class`, by digest; for `unpacked`.

    Raises:
        PluginError: A plug-in's file cannot be read, or has changed since the plan was made.
    """
    for package in _PACKAGES:
        for file in _files(HARNESS / package, deep=package not in _SHALLOW):
            _copy(file, folder / file.relative_to(HARNESS))
    refs = {ref.digest: ref for group in groups for cell in group.cells for ref in _refs(cell)}
    return {digest: _pack_plugin(ref, folder) for digest, ref in refs.items() if Spec(ref.source).is_path}


def unpacked(group: Group, folder: Path, packed: Mapping[str, str]) -> Group:
    """The group with plug-ins from `folder` where their own files are not on this machine.

    Files that are, as in a folder that all nodes mount, are left where they are: beside them may lie what they read.

    Args:
        group: From the plan.
        folder: What `pack` filled, here.
        packed: What `pack` returned.
    """
    return replace(group, cells=tuple(_unpacked_cell(cell, folder, packed) for cell in group.cells))


def _pack_plugin(ref: PluginRef, folder: Path) -> str:
    path, name = _file_and_name(ref)
    if not _is_there(ref):
        raise PluginError(f"{ref.kind} {ref.name}: {path} changed since the plan was made; run again")
    root, files = local_files(path)
    place = Path(_PLUGINS, ref.digest[:16])
    for file in files:
        _copy(file, folder / place / file.relative_to(root))
    return f"{(place / path.resolve().relative_to(root)).as_posix()}:{name}"


def _unpacked_cell(cell: Cell, folder: Path, packed: Mapping[str, str]) -> Cell:
    def located(ref: PluginRef) -> PluginRef:
        return (
            ref if ref.digest not in packed or _is_there(ref) else replace(ref, source=str(folder / packed[ref.digest]))
        )

    model, defenses = located(cell.victim.model), tuple(located(ref) for ref in cell.victim.defenses)
    return replace(cell, victim=replace(cell.victim, model=model, defenses=defenses), attack=located(cell.attack))


def _is_there(ref: PluginRef) -> bool:
    path, name = _file_and_name(ref)
    try:
        return path.is_file() and code_digest(path, name) == ref.digest
    except PluginError:
        # Another file of that name, not even Python.
        return False


def _file_and_name(ref: PluginRef) -> tuple[Path, str]:
    path, _, name = ref.source.rpartition(":")
    return Path(path), name


def _refs(cell: Cell) -> list[PluginRef]:
    return [cell.attack, cell.victim.model, *cell.victim.defenses]


def _files(folder: Path, *, deep: bool) -> list[Path]:
    found = folder.rglob("*") if deep else folder.glob("*")
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
