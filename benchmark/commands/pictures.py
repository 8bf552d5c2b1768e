"""`pictures`: draws the reconstructions that a run kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmark.commands.session import IMAGES, known_records, opened_store, planned
from benchmark.data import load_dataset
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.options import Options
from benchmark.parameters import nearest
from benchmark.report.pictures import reconstructed, to_png

if TYPE_CHECKING:
    from benchmark.record import Record


def write_pictures(options: Options, file: Path, attack: str | None, cut: str | None) -> int:
    """Draw a suite's cells into a PNG file, those of one attack or cut alone where asked for.

    Raises:
        UserError: Nothing fits, or no images are kept of what fits.
    """
    if file.suffix.lower() != ".png":
        raise UserError(f"-o {file}: pictures are written as PNG; give a name that ends in .png")
    suite, made = planned(options)
    with opened_store(options.output, write=False) as store:
        records = known_records(made, store)
        stored = bool(store.get([cell.key() for cell in made.cells]))
    done = [record for record in records if record.status == "done" and "reconstruct" in record.axes.goals]
    chosen = _chosen(done, "attack", attack)
    chosen = _chosen(chosen, "cut", cut)
    root = options.data_root
    datasets = {name: load_dataset(name, root=root) for name in {record.axes.dataset for record in chosen}}
    rows = reconstructed(chosen, datasets, options.output / IMAGES)
    if not rows:
        # What the store knows is not measured again.
        where = "another folder, with --output" if stored else "this folder"
        raise UserError(
            f"suite {suite.name}: no reconstructions of it are kept in {options.output}; make them in {where}: "
            f"unsplit-bench run {options.suite} --fresh"
        )
    write_atomically(file, to_png(rows))
    lacking = f"; of {len(chosen) - len(rows)} more no images are kept" if len(rows) < len(chosen) else ""
    Console(stderr=True).print(f"{file}: {len(rows)} cells{lacking}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _chosen(records: Sequence[Record], axis: str, wanted: str | None) -> list[Record]:
    names = sorted({str(getattr(record.axes, axis)) for record in records})
    if wanted is None or not names:
        return list(records)
    if wanted not in names:
        raise UserError(
            f"--{axis} {wanted}: no reconstructions with it were measured; choose one of: {', '.join(names)}"
            f"{nearest(wanted, names)}"
        )
    return [record for record in records if getattr(record.axes, axis) == wanted]
