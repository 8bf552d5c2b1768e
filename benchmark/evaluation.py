"""The benchmark as one Python call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import registry
from benchmark.commands.session import known_records, measured, opened_store
from benchmark.leaderboard import leaderboard
from benchmark.options import Device, Options
from benchmark.plan import plan
from benchmark.suite import load_suite

if TYPE_CHECKING:
    import pandas as pd

    from attacks.base import Attack
    from defenses.base import Defense


def evaluate(
    suite: str,
    *,
    defense: Defense | str | Sequence[Defense | str] | None = None,
    attack: Attack | str | None = None,
    output: str | Path = "unsplit-bench-out",
    device: Device = "auto",
    data_root: str | Path | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Run a suite, with a defense or attack of one's own beside it, and return its leaderboard.

    What the output folder or the released results already hold is not run again.

    Args:
        suite: Name or path.
        defense: An instance, a text such as `gaussian_noise:relative=0.5` or `./my_defense.py:MyDefense`, or
            a list of them
            that is applied in order. A class that lives in no file (a notebook's) is run in this process.
        attack: An instance or text.
        output: Folder of store, victims and logs.
        device: `auto`, `cpu` or `cuda`.
        data_root: Where data sets lie.
        workers: Child processes; by default one a core.

    Returns:
        The leaderboard's rows, columns as in `benchmark.leaderboard.COLUMNS`; gaps where a cell could not be measured.

    Raises:
        UserError: Anything given is wrong, in one sentence.
    """
    options = Options(
        suite=str(suite),
        output=Path(output),
        device=device,
        data_root=None if data_root is None else Path(data_root),
        workers=workers,
    )
    loaded = load_suite(options.suite)
    composed = [defense] if defense is None or not isinstance(defense, list | tuple) else defense
    defenses = [registry.reference("defense", one) for one in composed if one is not None]
    attacks = [] if attack is None else [registry.reference("attack", attack)]
    made = plan(loaded, [defenses] if defenses else [], attacks, data_root=options.data_root)
    with opened_store(options.output) as store:
        measured(options, loaded, made, store)
        return leaderboard(known_records(made, store), made).rows
