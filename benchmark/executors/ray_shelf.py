"""The cache of victims as Ray tasks share it: kept on this machine's disk, handed out through the object store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.executors.ray_task import Files, read_files
from benchmark.files import write_atomically

if TYPE_CHECKING:
    from types import ModuleType

    from ray import ObjectRef

    from benchmark.executors.handover import Training


class Shelf:
    """Hands each file to those who need it, and takes it out of the object store when nobody does any more.

    Args:
        ray: The library, connected.
        cache: Folder of the cached victims. What lies in its subfolders is for all.
    """

    def __init__(self, ray: ModuleType, cache: Path) -> None:
        self.cache = cache
        self._ray = ray
        self._trainings: dict[str, Training] = {}
        self._users: Counter[str] = Counter()
        self._of_victims: set[str] = set()
        self._victims: dict[str, ObjectRef[Files]] = {}
        self._for_all: dict[str, ObjectRef[Files]] = {}
        for name, content in read_files(cache).items():
            if "/" in name:
                self._for_all[name] = ray.put({name: content})

    def reserve(self, trainings: Mapping[str, Training]) -> None:
        """A group will need the files of these trainings, by key, until `release`."""
        self._users.update(trainings.keys())
        self._trainings |= trainings
        self._of_victims.update(name for training in trainings.values() for name in training.files)

    def release(self, trainings: Mapping[str, Training]) -> None:
        """A group needs the files of these trainings no more."""
        self._users.subtract(trainings.keys())
        for key in trainings:
            if self._users[key] <= 0:
                self._victims.pop(key, None)

    def take(self, keys: Sequence[str]) -> list[ObjectRef[Files]]:
        """The files of these trainings, which the cache must hold, and what is for all."""
        for key in keys:
            if key not in self._victims:
                files = {name: (self.cache / name).read_bytes() for name in self._trainings[key].files}
                self._victims[key] = self._ray.put(files)
        return [*(self._victims[key] for key in keys), *self._for_all.values()]

    def keep(self, made: Files) -> None:
        """Put what a task made into the cache; what belongs to no victim is for all."""
        for name, content in made.items():
            write_atomically(self.cache / name, content)
            if name not in self._of_victims and name not in self._for_all:
                self._for_all[name] = self._ray.put({name: content})
