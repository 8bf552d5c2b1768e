"""Ranks within one table: by utility tier, then by the upper end of the leakage interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmark.flags import Raised, flags_of, is_fatal
from benchmark.metrics.statistics import differs
from benchmark.rows import Row, RowKey, row_order
from benchmark.standing import Standing, stand


def judge(rows: Sequence[Row]) -> list[tuple[Standing, list[Raised], int | None]]:
    """Standing, flags and rank of every row, table by table, ranked rows first.

    Ranks restart in each table (goal, dataset, model, topology, tail, victim, cut asked for, threat model) and run on
    over its tiers, tier 1 first. Rows with a gap or a fatal flag have none.
    """
    tables: dict[tuple[str | None, ...], list[Standing]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row_order(row.key)):
        tables[row.key.table].append(stand(row))
    judged = []
    for table in tables.values():
        flags = flags_of(table)
        ranked = ranks(table, flags)
        order = {key: place for place, key in enumerate(ranked)}
        last = len(order)
        for standing in sorted(table, key=lambda s: (order.get(s.row.key, last), row_order(s.row.key))):
            key = standing.row.key
            judged.append((standing, flags[key], ranked.get(key)))
    return judged


def ranks(table: Sequence[Standing], flags: Mapping[RowKey, Sequence[Raised]]) -> dict[RowKey, int]:
    """Ranks of the rows of one table that can be ranked, best first.

    Rows of a tier are ordered by `high`, then leakage. A row shares the rank of those before it only where its paired
    difference from every one of them has an interval that contains 0; the next rank is then skipped (1, 2, 2, 4).
    """
    able = [s for s in table if s.tier is not None and math.isfinite(s.high) and not is_fatal(flags[s.row.key])]
    able.sort(key=lambda s: (s.tier, s.high, s.leakage, row_order(s.row.key)))
    found: dict[RowKey, int] = {}
    tied: list[Standing] = []
    for place, standing in enumerate(able, start=1):
        same_tier = bool(tied) and tied[0].tier == standing.tier
        if not same_tier or any(differs(standing.draws, other.draws) for other in tied):
            tied = []
        tied.append(standing)
        found[standing.row.key] = place - len(tied) + 1
    return found
