"""Which victims are trained before which groups, and the files that go from one task to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.executors.ray_task import Files

if TYPE_CHECKING:
    from benchmark.cell import Cell, Group, VictimSpec


@dataclass(frozen=True)
class Training:
    """A victim that is trained once, as a task of its own.

    Attributes:
        key: What it is known by.
        cell: One whose victim it is.
        files: What it adds to the cache of victims, paths in it.
        needs: Keys of trainings that come first.
    """

    key: str
    cell: Cell
    files: tuple[str, ...]
    needs: tuple[str, ...] = ()


def trainings(cell: Cell) -> list[Training]:
    """What must be trained before a cell's attack, in this order.

    The undefended victim comes first: utility is compared with it, and a defense that takes no part in training wears
    its weights. A victim of its own follows where a defense takes part, or where its training is watched.
    """
    victim, undefended = cell.victim, cell.victim.undefended()
    first = Training(undefended.weights_key(), replace(cell, victim=undefended), (_weights(undefended),))
    if not victim.defended_training and victim.watch is None:
        return [first]
    files = [_weights(victim)] if victim.defended_training else []
    if victim.watch is not None:
        files.append(f"{victim.key()}.seen.safetensors")
    return [first, Training(victim.key(), cell, tuple(files), (first.key,))]


def group_trainings(group: Group) -> dict[str, Training]:
    """The trainings of all its cells, by key, those that others need first."""
    found = [training for cell in group.cells for training in trainings(cell)]
    return {training.key: training for training in sorted(found, key=lambda training: len(training.needs))}


def cached(training: Training, cache: Path) -> Files | None:
    """Its files, where the cache holds them all and whole."""
    from benchmark.tensors import BrokenFileError, load_tensors

    for name in training.files:
        try:
            load_tensors(cache / name)
        except (FileNotFoundError, BrokenFileError):
            return None
    return {name: (cache / name).read_bytes() for name in training.files}


def _weights(spec: VictimSpec) -> str:
    return f"{spec.weights_key()}.safetensors"
