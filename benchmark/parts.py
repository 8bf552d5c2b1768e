"""A data set as the harness holds it: three disjoint parts, and the digest that pins them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.catalogue import Facts as Facts
from benchmark.errors import UserError
from benchmark.seeds import Rng

# A class needs one sample in each part; five give 3 + 1 + 1 at 60/20/20.
FEWEST_A_CLASS = 5


@dataclass(frozen=True, eq=False)
class Part:
    """Samples that one party holds; a data set's are on the CPU.

    Attributes:
        images: [n, channels, height, width], float32 in [0, 1], multiples of 1/255.
        labels: [n], int64, 0 .. classes - 1.
        ids: [n], int64, numbers that no other sample of the data set has. A source sorted by class gives ids that tell
            the label, so an attack must see positions, never these.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: Tensor) -> Part:
        """The samples at `positions` ([k], int64), in that order."""
        return Part(self.images[positions], self.labels[positions], self.ids[positions])

    def to(self, device: torch.device) -> Part:
        """The same samples on `device`."""
        return Part(self.images.to(device), self.labels.to(device), self.ids.to(device))

    def digest(self) -> str:
        """SHA-256, 64 hex digits, over shape, pixels (8 bits), labels and ids, in order."""
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for images in torch.split(self.images, 1000):
            sha.update((images * 255).round().to(torch.uint8).cpu().numpy().tobytes())
        for column in (self.labels, self.ids):
            sha.update(column.cpu().numpy().tobytes())
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, cut once into three disjoint parts.

    Attributes:
        name: The canonical spec it is loaded by.
        victim: What the victim trains with.
        auxiliary: What an attacker with auxiliary data holds.
        test: What utility is measured on and inference-phase targets are taken from.
        n_classes: Number of classes; each part has every one.
        class_names: Of label 0, 1, ...
        digest: SHA-256, 64 hex digits, over the three parts.
        note: What a reader of results must know about this copy, one sentence; empty for an original one.
    """

    name: str
    victim: Part
    auxiliary: Part
    test: Part
    n_classes: int
    class_names: tuple[str, ...]
    digest: str
    note: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    @property
    def facts(self) -> Facts:
        """What a plan must know of it."""
        return Facts(self.name, self.digest, self.image_shape, self.n_classes)

    def parts(self) -> dict[str, Part]:
        """The parts by name."""
        return {"victim": self.victim, "auxiliary": self.auxiliary, "test": self.test}


def part_of(pixels: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> Part:
    """A part from pixels of 8 bits ([n, channels, height, width]), labels ([n]) and ids ([n])."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(255)
    return Part(images, *(torch.from_numpy(column.astype(np.int64)) for column in (labels, ids)))


def dataset_of(
    name: str, victim: Part, auxiliary: Part, test: Part, class_names: Sequence[str], note: str = ""
) -> Dataset:
    """A data set from its parts.

    Raises:
        UserError: A part lacks a class, or a label has no class name.
    """
    sha = hashlib.sha256()
    for title, part in (("victim", victim), ("auxiliary", auxiliary), ("test", test)):
        counts = torch.bincount(part.labels, minlength=len(class_names)).tolist()
        if len(counts) > len(class_names):
            raise UserError(
                f"data set {name}: the {title} part has label {len(counts) - 1}, but there are only "
                f"{len(class_names)} classes; repair or replace its label file"
            )
        if 0 in counts:
            raise UserError(
                f"data set {name}: the {title} part has no sample of class {class_names[counts.index(0)]!r}; "
                "add samples of that class"
            )
        sha.update(f"{title}:{part.digest()};".encode())
    return Dataset(name, victim, auxiliary, test, len(class_names), tuple(class_names), sha.hexdigest(), note)


def interleaved(by_class: Sequence[Sequence[int]], rng: Rng) -> np.ndarray:
    """Samples of all classes mixed, each class in its own order.

    The sequence of classes is drawn, because a regular one would let a server that counts its rows read labels off
    their positions; the order within a class stays, so that the first of a class is still the first.

    Args:
        by_class: For each class, its samples in order.
        rng: Draws the sequence of classes.

    Returns:
        All samples, [n], int64.
    """
    classes = np.repeat(np.arange(len(by_class)), [len(samples) for samples in by_class])
    waiting: list[Iterator[int]] = [iter(samples) for samples in by_class]
    drawn = classes[rng.permutation(len(classes)).numpy()]
    return np.array([next(waiting[label]) for label in drawn], dtype=np.int64)
