"""A picture of what attacks recovered: the private images, and under them, for each cell, what was reconstructed."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from benchmark.data import targets_digest
from benchmark.errors import UserError
from benchmark.metrics.reconstruction import align
from benchmark.runner import images_file
from benchmark.tensors import BrokenFileError, load_tensors

if TYPE_CHECKING:
    from benchmark.data import Dataset
    from benchmark.record import Record

Images = NDArray[np.float64]

SHOWN_AT_MOST = 20
# In pixels; whole ones, so that a digit's are drawn as squares of two by two.
_IMAGE, _GAP, _MARGIN, _LABEL, _KIND = 56, 4, 12, 256, 56
_DPI = 112
_LINE = 38


@dataclass(frozen=True)
class Reconstructed:
    """One cell's images, class by class: attacks meet them in an order that tells nothing, a reader compares classes.

    Attributes:
        record: Of a cell that is done and whose goals include `reconstruct`.
        truth: The private images, [n, channels, height, width], in [0, 1].
        images: What the attack gave for them at the checkpoint that was scored, same shape, any finite range.
    """

    record: Record
    truth: Images
    images: Images


def reconstructed(records: Iterable[Record], datasets: Mapping[str, Dataset], folder: Path) -> list[Reconstructed]:
    """The records whose reconstructions are kept, with these and the private images, in the records' order.

    Args:
        records: Any; left out are those that are not done, do not reconstruct, or have no file.
        datasets: By the name records give: private images are not kept with results, and are taken from there.
        folder: Where a run kept reconstructions; see `benchmark.runner.images_file`.

    Raises:
        UserError: A file is broken, or a data set here does not hold the images that were attacked.
    """
    found = []
    for record in records:
        path = images_file(folder, record.key)
        if record.status == "done" and "reconstruct" in record.axes.goals and path.is_file():
            truth = _truth(record, datasets[record.axes.dataset])
            shown = np.argsort(record.targets["labels"], kind="stable")
            found.append(Reconstructed(record, truth[shown], _images(path, truth.shape)[shown]))
    return found


def to_png(rows: Sequence[Reconstructed]) -> bytes:
    """Draw cells one under the other: private images, then each cell's reconstructions raw and aligned.

    Raw images are cut to [0, 1]; aligned ones have the gain and offset that scoring gives them. Beside them stand the
    cell and its mean aligned SSIM over all its targets, of which the first `SHOWN_AT_MOST` are drawn. Private images
    are drawn anew where a cell has others than the one above it.

    Args:
        rows: At least one.

    Returns:
        A PNG file; the same rows give the same bytes under the same matplotlib.
    """
    strips: list[tuple[str, str, Images]] = []
    above: object = None
    for row in rows:
        if row.record.targets["digest"] != above:
            above = row.record.targets["digest"]
            strips.append((f"private images\n{row.record.axes.dataset}", "", row.truth))
        strips.append((label(row.record), "raw", np.clip(row.images, 0.0, 1.0)))
        strips.append(("", "aligned", align(row.images, row.truth)))
    return draw_strips(strips)


def label(record: Record) -> str:
    """A cell in at most seven short lines: defense, cut and seed, attack and its seed, mean aligned SSIM."""
    axes = record.axes
    cut = axes.cut if axes.cut == axes.cut_reached else f"{axes.cut} → {axes.cut_reached}"
    lines = [
        *_wrapped("no defense" if axes.defense == "none" else f"{axes.defense} {_spaced(axes.params)}"),
        *_wrapped(f"{cut}, victim seed {axes.seed}{', in training' if axes.phase == 'training' else ''}", at_most=1),
        *_wrapped(f"{axes.attack}, attack seed {axes.attack_seed}", at_most=1),
        *_wrapped(_spaced(axes.attack_params)),
        f"mean aligned SSIM {fmean(record.per_image['ssim_aligned']):.2f}",
    ]
    return "\n".join(lines)


def _wrapped(text: str, at_most: int = 2) -> list[str]:
    return textwrap.wrap(text, _LINE, max_lines=at_most, placeholder=" …")


def _spaced(parameters: str) -> str:
    return parameters.replace(",", ", ")


def _truth(record: Record, dataset: Dataset) -> Images:
    part = dataset.victim if record.axes.phase == "training" else dataset.test
    at = {sample: position for position, sample in enumerate(part.ids.tolist())}
    ids = record.targets["ids"]
    targets = part.select(torch.tensor([at[sample] for sample in ids])) if all(sample in at for sample in ids) else None
    if targets is None or targets_digest(targets) != record.targets["digest"]:
        raise UserError(
            f"data set {record.axes.dataset}: the files here do not hold the images that were attacked; "
            "give the run's --data-root"
        )
    truth: Images = targets.images.double().numpy()
    return truth


def _images(path: Path, shape: tuple[int, ...]) -> Images:
    try:
        tensors, _ = load_tensors(path)
    except BrokenFileError:
        tensors = {}
    found = tensors.get("reconstructions")
    if found is None or tuple(found.shape) != shape:
        raise UserError(
            f"{path} does not hold the reconstructions that were written; delete it, or run the suite into another "
            "folder with --fresh and --output"
        )
    images: Images = found.double().numpy()
    return images


def draw_strips(strips: Sequence[tuple[str, str, Images]]) -> bytes:
    """Draw images in rows, as a PNG file.

    Args:
        strips: A label of several lines, a word beside it, and images in [0, 1], the first `SHOWN_AT_MOST` of which are
            drawn. A row with both label and word stands apart from the one above it.
    """
    columns = max(min(len(images), SHOWN_AT_MOST) for _, _, images in strips)
    first = _MARGIN + _LABEL + _KIND
    width = first + columns * (_IMAGE + _GAP) + _MARGIN
    tops, below = [], _MARGIN
    for name, kind, _ in strips:
        # Cells stand apart, what belongs to one together.
        below += 3 * _GAP if name and kind else 0
        tops.append(below)
        below += _IMAGE + _GAP
    height = below + _MARGIN
    # A figure with a canvas of its own: pyplot would keep it in global state. What a user's matplotlibrc may change is
    # given explicitly.
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    text: dict[str, Any] = {"family": "DejaVu Sans", "color": "black", "parse_math": False, "va": "top", "ha": "left"}
    for top, (name, kind, images) in zip(tops, strips, strict=True):
        y = 1 - top / height
        figure.text(_MARGIN / width, y, name, fontsize=8, linespacing=1.25, **text)
        figure.text((_MARGIN + _LABEL) / width, y, kind, fontsize=7, **text)
        for column, image in enumerate(images[:SHOWN_AT_MOST]):
            x = (first + column * (_IMAGE + _GAP)) / width
            axes = figure.add_axes((x, y - _IMAGE / height, _IMAGE / width, _IMAGE / height))
            axes.set_axis_off()
            axes.imshow(_pixels(image), aspect="equal", origin="upper", interpolation="nearest")
    canvas.draw()
    content = io.BytesIO()
    # Not by matplotlib, which would write its version into the file.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(content, "png")
    return content.getvalue()


def _pixels(image: Images) -> NDArray[np.uint8]:
    # [channels, height, width] to [height, width, 3]; one channel is grey.
    pixels: NDArray[np.uint8] = np.broadcast_to(
        np.rint(255 * np.moveaxis(image, 0, 2)).astype(np.uint8), (*image.shape[1:], 3)
    )
    return pixels
