"""One picture of what an attack makes of every cut: a sheet for each data set and kind of victim."""

from __future__ import annotations

import io
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from PIL import Image

from benchmark import registry
from benchmark.errors import UserError
from benchmark.metrics.reconstruction import align
from benchmark.models import cuts, network
from benchmark.record import Record
from benchmark.report.names import names_across
from benchmark.report.pictures import Images, Reconstructed, draw_strips
from benchmark.seeds import Rng

_ABREAST, _NOTE = 2, 44


def sheets(rows: Sequence[Reconstructed]) -> dict[str, list[Reconstructed]]:
    """Cells by data set and kind of victim, each sheet's by depth of the cut and then by attack.

    Of several victim and attack seeds the first of each is shown: a choice that no result can sway.
    """
    groups: dict[tuple[str, str, str], dict[tuple[str, str, str], Reconstructed]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row.record.axes.seed, row.record.axes.attack_seed)):
        axes = row.record.axes
        place = axes.cut, axes.attack, axes.attack_params
        # Trained before untrained.
        groups[axes.dataset, axes.victim, axes.model].setdefault(place, row)
    found = {}
    for (dataset, victim, model), cells in sorted(groups.items()):
        depth = _order(model, next(iter(cells.values())).record)
        found[f"{dataset}, {victim} victim"] = [
            cells[place] for place in sorted(cells, key=lambda place: (depth[place[0]], place[1:]))
        ]
    return found


def to_png(rows: Sequence[Reconstructed]) -> bytes:
    """Draw the sheets two abreast: private images, then at each cut what each attack made of them, raw and aligned.

    Raw images are cut to [0, 1]; aligned ones have the gain and offset that scoring gives them. Beside them stands the
    mean aligned SSIM over the targets.

    Returns:
        A PNG file; the same rows give the same bytes under the same matplotlib.

    Raises:
        UserError: There is nothing to draw.
    """
    if not rows:
        raise UserError("nothing is to be drawn: no reconstructions are kept")
    axes = [row.record.axes for row in rows]
    names = names_across(
        [(one.attack, one.attack_params) for one in axes if one.dataset == dataset]
        for dataset in sorted({one.dataset for one in axes})
    )
    drawn = [Image.open(io.BytesIO(draw_strips(_strips(title, cells, names)))) for title, cells in sheets(rows).items()]
    lines = [drawn[at : at + _ABREAST] for at in range(0, len(drawn), _ABREAST)]
    heights = [max(sheet.height for sheet in line) for line in lines]
    whole = Image.new("RGB", (max(sum(sheet.width for sheet in line) for line in lines), sum(heights)), "white")
    top = 0
    for line, height in zip(lines, heights, strict=True):
        left = 0
        for sheet in line:
            whole.paste(sheet, (left, top))
            left += sheet.width
        top += height
    content = io.BytesIO()
    whole.save(content, "png", optimize=True)
    return content.getvalue()


def _strips(
    title: str, cells: Sequence[Reconstructed], names: Mapping[tuple[str, str], str]
) -> list[tuple[str, str, Images]]:
    note = textwrap.wrap(str(cells[0].record.targets.get("note", "")), _NOTE)
    strips = [("\n".join([title, "private images", *note]), "", cells[0].truth)]
    for cell in cells:
        axes = cell.record.axes
        ssim = fmean(cell.record.per_image["ssim_aligned"])
        text = f"{axes.cut}\n{names[axes.attack, axes.attack_params]}\nmean aligned SSIM {ssim:.2f}"
        strips.append((text, "raw", np.clip(cell.images, 0.0, 1.0)))
        strips.append(("", "aligned", align(cell.images, cell.truth)))
    return strips


def _order(model: str, record: Record) -> dict[str, int]:
    shape, n_classes = tuple(record.targets["image_shape"]), record.targets["n_classes"]
    whole = network(registry.plugin("model", model), shape, n_classes, Rng("gallery"))
    return {name: place for place, name in enumerate(cuts(whole))}
