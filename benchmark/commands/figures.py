"""`gallery` and `depth`: a suite's results as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmark import registry
from benchmark.commands.session import IMAGES, known_records, opened_store, planned
from benchmark.data import load_dataset
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.report.depth import columns, to_svg
from benchmark.report.gallery import to_png
from benchmark.report.pictures import reconstructed
from benchmark.rows import slots

if TYPE_CHECKING:
    from benchmark.options import Options
    from benchmark.record import Record


def write_depth(options: Options, file: Path) -> int:
    """Draw leakage and the accuracy of stolen heads against depth, from what is stored or released.

    Raises:
        UserError: The file's name does not end in .svg, or there is nothing to draw.
    """
    if file.suffix.lower() != ".svg":
        raise UserError(f"-o {file}: the figure is written as SVG; give a name that ends in .svg")
    _, made = planned(options, to_read=True)
    with opened_store(options.output, write=False) as store:
        found = slots(known_records(made, store), made)
    write_atomically(file, to_svg(columns(found)))
    return 0


def write_gallery(options: Options, file: Path, attacks: Sequence[str]) -> int:
    """Draw what attacks made of the private images at every cut, from the reconstructions that a run kept.

    Args:
        options: What the user asked for.
        file: A PNG file.
        attacks: Which, as a suite writes them; all where none is named.

    Raises:
        UserError: The file's name does not end in .png, an attack is not of the suite, or no images are kept.
    """
    if file.suffix.lower() != ".png":
        raise UserError(f"-o {file}: pictures are written as PNG; give a name that ends in .png")
    suite, made = planned(options)
    with opened_store(options.output, write=False) as store:
        records = known_records(made, store)
    shown = [record for record in records if _shown(record)]
    if attacks:
        wanted = {(ref.name, ref.changed) for ref in (registry.reference("attack", text) for text in attacks)}
        shown = [record for record in shown if (record.axes.attack, record.axes.attack_params) in wanted]
    datasets = {name: load_dataset(name, root=options.data_root) for name in {r.axes.dataset for r in shown}}
    rows = reconstructed(shown, datasets, options.output / IMAGES)
    if not rows:
        raise UserError(
            f"suite {suite.name}: no reconstructions of {' or '.join(attacks) or 'it'} are kept in {options.output}; "
            f"make them in another folder: unsplit-bench run {options.suite} --fresh --output FOLDER"
        )
    write_atomically(file, to_png(rows))
    Console(stderr=True).print(f"{file}: {len(rows)} cells", markup=False, highlight=False, soft_wrap=True)
    return 0


def _shown(record: Record) -> bool:
    axes = record.axes
    plain = axes.defense == "none" and axes.phase == "inference" and "architecture of" not in axes.threat_model
    return record.status == "done" and "reconstruct" in axes.goals and plain
