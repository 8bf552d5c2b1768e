"""Data sets by name, each cut once into victim, auxiliary and test parts, and the private samples under attack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.catalogue import DATASETS
from benchmark.errors import UserError
from benchmark.locations import data_root as data_root
from benchmark.parameters import nearest
from benchmark.parts import Dataset, Facts, Part
from benchmark.seeds import Rng

if TYPE_CHECKING:
    from benchmark.cell import TargetRule

__all__ = [
    "Dataset",
    "Facts",
    "Part",
    "choose_targets",
    "data_root",
    "load_dataset",
    "majority_share",
    "targets_digest",
]


def load_dataset(spec: str, root: Path | None = None, download: bool = False) -> Dataset:
    """Load a data set.

    Args:
        spec: `mnist-5k`, `mnist`, `fashion-mnist`, `cifar10`, or `image_folder:path=DIR,size=32[,channels=3]`.
        root: Folder that holds the files of `mnist`, `fashion-mnist` and `cifar10`; see `data_root` for the default.
        download: Fetch into `root` what is missing there. Without it nothing is ever fetched.

    Returns:
        The data set on the CPU; equal files give equal parts and an equal digest.

    Raises:
        UserError: The spec is wrong, files are missing or broken, or a download failed.
    """
    name, _, options = spec.partition(":")
    if name not in DATASETS:
        raise UserError(
            f"data set {name!r} does not exist; choose one of: {', '.join(DATASETS)}{nearest(name, list(DATASETS))}"
        )
    if name == "image_folder":
        return _image_folder(spec)
    if options:
        raise UserError(f"data set {name} has no options, but {spec!r} gives {options!r}; write just {name!r}")
    from benchmark import sources

    if name == "mnist-5k":
        return sources.mnist_5k()
    load = {"mnist": sources.mnist, "fashion-mnist": sources.fashion_mnist, "cifar10": sources.cifar10}[name]
    return load(data_root(root), download)


def choose_targets(part: Part, rule: TargetRule) -> Tensor:
    """Positions in `part` of the private samples that a rule chooses, int64.

    `first_of_class` and `per_class` go class by class, each in the part's order; `drawn` keeps the order of the draw,
    without replacement.

    Raises:
        UserError: A class, or for `drawn` the part, has too few samples, or the rule asks for fewer than one.
    """
    if rule.n < 1:
        raise UserError(f"targets {rule.text()}: n={rule.n} chooses nothing; give n of at least 1")
    if rule.how == "drawn":
        if rule.n > len(part):
            raise UserError(f"targets {rule.text()}: the part has only {len(part)} samples; lower n")
        return Rng("targets", rule.seed).permutation(len(part))[: rule.n]
    wanted = 1 if rule.how == "first_of_class" else rule.n
    chosen = []
    for label in range(int(part.labels.max()) + 1):
        positions = (part.labels == label).nonzero().flatten()
        if len(positions) < wanted:
            raise UserError(
                f"targets {rule.text()}: class {label} has only {len(positions)} of {wanted} samples asked for; lower n"
            )
        chosen.append(positions[:wanted])
    return torch.cat(chosen)


def targets_digest(part: Part) -> str:
    """SHA-256, 64 hex digits, of the chosen samples (`part.select(positions)`), for their record."""
    return part.digest()


def majority_share(labels: Tensor) -> float:
    """Share of the most frequent label ([n], int64, n at least 1), in (0, 1]: accuracy of always guessing it."""
    return int(torch.bincount(labels).max()) / len(labels)


def _image_folder(spec: str) -> Dataset:
    from benchmark.folders import ImageFolder, image_folder
    from benchmark.spec import parse_spec

    parameters = dict(parse_spec(spec).parameters)
    if "path" not in parameters:
        raise UserError(f"data set {spec!r} does not name its folder; write image_folder:path=DIR,size=32")
    return image_folder(ImageFolder.configured(parameters))
