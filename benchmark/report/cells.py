"""Values as a reader sees them in a table's cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmark.flags import NOT_ESTABLISHED

GAP = "—"
AT_LEAST = "≥"


def leakage_text(row: Mapping[str, Any]) -> str:
    """Leakage with its interval, as a lower bound where it is not established, or a dash."""
    if pd.isna(row["leakage"]):
        return GAP
    if NOT_ESTABLISHED in str(row["flags"]).split(", "):
        return f"{AT_LEAST} {row['leakage']:.3f}, not established"
    return f"{row['leakage']:.3f} [{row['leakage_low']:.3f}, {row['leakage_high']:.3f}]"


def change_text(row: Mapping[str, Any]) -> str:
    """Leakage above (+) or below (-) that without a defense, with its interval; a lower bound where leakage is one."""
    if pd.isna(row["leakage_change"]):
        return GAP
    if NOT_ESTABLISHED in str(row["flags"]).split(", "):
        return f"{AT_LEAST} {row['leakage_change']:+.3f}"
    return f"{row['leakage_change']:+.3f} [{row['leakage_change_low']:+.3f}, {row['leakage_change_high']:+.3f}]"


def rate_text(rate: float, beside: float) -> str:
    """A share of images with the share that it is held against: `0.95 (0.01)`; a dash where there is none."""
    if pd.isna(rate):
        return GAP
    return f"{rounded(rate, 2)} ({GAP if pd.isna(beside) else rounded(beside, 2)})"


def text(value: Any) -> str:
    """A value as a reader sees it, on one line: three digits, a dash for a gap."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return GAP
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else rounded(value, 3)
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(value)) or GAP


def rounded(value: float, digits: int) -> str:
    """A number with a fixed count of digits, and no minus sign before nothing but zeros."""
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if not shown.strip("-0.") else shown
