"""The private images behind planted clients: real digits, and real colour pictures cut into patches of 64 x 64."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

from benchmark.cell import TargetRule
from benchmark.data import Dataset, Part, choose_targets, load_dataset
from benchmark.errors import UserError
from benchmark.parts import dataset_of, part_of

# Colour photographs and a micrograph in scikit-image's own package, stored without loss: equal everywhere.
PICTURES = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left")
SIZE = 64
# Width of the strip on the right that victim and test patches come from; auxiliary ones come from the rest.
STRIP = 80
STRIDE = 2
PER_CLASS = {"victim": 20, "auxiliary": 60, "test": 2}
# Samples a class of the digits that a client with private labels trains with, so few that its loss stays lively.
FEW = 20


@cache
def digits() -> Dataset:
    """The real digits of `mnist-5k`, 1x28x28."""
    return load_dataset("mnist-5k")


@cache
def few_digits() -> Dataset:
    """The same with few digits to train with."""
    whole = digits()
    few = whole.victim.select(choose_targets(whole.victim, TargetRule("per_class", FEW)))
    return dataset_of("planted-digits", few, whole.auxiliary, whole.test, whole.class_names)


@cache
def patches() -> Dataset:
    """Patches of 3x64x64 of five real pictures, at half their resolution; the class is the picture.

    The parts come from regions of a picture that do not overlap: test patches from the upper half of a strip at its
    right edge, victim patches from the lower half, auxiliary ones from the rest; within a part patches do.

    Raises:
        UserError: scikit-image is installed without its pictures.
    """
    parts: dict[str, Part] = {}
    halves = [_halved(name) for name in PICTURES]
    for title, n in PER_CLASS.items():
        chosen = [cut_patches(picture, title) for picture in halves]
        labels = np.repeat(np.arange(len(PICTURES)), n)
        first_id = {"victim": 0, "auxiliary": 600, "test": 2000}[title]
        parts[title] = part_of(np.concatenate(chosen), labels, first_id + np.arange(len(labels)))
    return dataset_of("planted-patches", parts["victim"], parts["auxiliary"], parts["test"], PICTURES)


def _halved(name: str) -> np.ndarray:
    """A picture at half its resolution, [height, width, 3], 8 bits."""
    file = files("skimage") / "data" / f"{name}.png"
    if not file.is_file():
        raise UserError(f"planted clients: {file} is missing; reinstall scikit-image (pip install --force-reinstall)")
    with file.open("rb") as stream:
        pixels = np.asarray(Image.open(stream).convert("RGB"), dtype=np.uint16)
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    means: np.ndarray = (blocks.sum(axis=(1, 3)) + 2) // 4
    return means.astype(np.uint8)


def cut_patches(picture: np.ndarray, part: str) -> np.ndarray:
    """The patches of a part (`victim`, `auxiliary` or `test`), at evenly spaced places of its region of a picture.

    Args:
        picture: [height, width, 3], at least 128 x 144.
        part: Whose region; the number of patches is `PER_CLASS` of it.

    Returns:
        [n, 3, SIZE, SIZE].
    """
    n, region = PER_CLASS[part], _region(picture, part)
    rows, columns = (np.arange(0, side - SIZE + 1, STRIDE) for side in region.shape[:2])
    places = [(row, column) for row in rows for column in columns]
    chosen = [places[round(at)] for at in np.linspace(0, len(places) - 1, n)]
    cut = [region[row : row + SIZE, column : column + SIZE] for row, column in chosen]
    stacked: np.ndarray = np.stack(cut).transpose(0, 3, 1, 2)
    return stacked


def _region(picture: np.ndarray, part: str) -> np.ndarray:
    if part == "auxiliary":
        return picture[:, :-STRIP]
    middle = len(picture) // 2
    return picture[:middle, -STRIP:] if part == "test" else picture[middle:, -STRIP:]
