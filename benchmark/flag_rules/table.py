"""What a rule is given beside a row: the rows it is ranked among."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.rows import RowKey
from benchmark.standing import Standing


@dataclass(frozen=True)
class Table:
    """The rows that a row is ranked among.

    Attributes:
        rows: All of them.
        trusted: Keys of those that can be ranked: no fatal flag, and a utility tier.
    """

    rows: Sequence[Standing]
    trusted: frozenset[RowKey] = frozenset()
