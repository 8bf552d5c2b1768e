"""Flags of a row as tests ask for them."""

from __future__ import annotations

from benchmark.leaderboard import leaderboard
from benchmark.record import Record


def flags(found: list[Record], defense: str = "none", params: str | None = None) -> dict[str, tuple[str, str]]:
    """Code -> severity and sentence, of one defense's row, or of the one with these parameters."""
    notes = leaderboard(found).notes
    notes = notes[notes["defense"] == defense]
    if params is not None:
        notes = notes[notes["params"] == params]
    return {
        code: (severity, sentence)
        for code, severity, sentence in zip(notes["flag"], notes["severity"], notes["sentence"], strict=True)
    }


def ranked(found: list[Record], defense: str = "none") -> bool:
    """Whether all rows of a defense have a rank."""
    rows = leaderboard(found).rows
    return bool(rows[rows["defense"] == defense]["rank"].notna().all())
