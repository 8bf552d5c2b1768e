"""When a result must not be trusted: each flag has a code, a weight and a meaning.

A *fatal* flag leaves the row unranked, a *caution* never does, a *label* only tells. F1 to F13 number the faults of
published evaluations that the flags answer:

    F1 weaker_beats_stronger   F6 not_converged, not_established   F7 leakage_below_control   F8 utility_at_majority
    F9 epsilon_without_ground  F11 inactive                        F13 interval_wider_than_gap

F3 (planted client), F5 (randomised output) and F10 (reused noise) can only be seen while a cell runs: the run writes
their codes into `Record.flags`, and they are weighed here. A code that is unknown here counts as a caution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark import flag_rules as rules
from benchmark.flag_rules import Table
from benchmark.rows import RowKey
from benchmark.standing import Standing

Severity = Literal["fatal", "caution", "label"]

NOT_ESTABLISHED = "not_established"


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        code: What the leaderboard prints.
        severity: `fatal` leaves the row unranked; `caution` and `label` do not.
        rule: What it looks for; its docstring is the flag's meaning.
    """

    code: str
    severity: Severity
    rule: Callable[[Standing, Table], str | None]

    @property
    def meaning(self) -> str:
        """One sentence."""
        return (self.rule.__doc__ or "").strip()


@dataclass(frozen=True)
class Raised:
    """A flag on a row.

    Attributes:
        code, severity: As in `Flag`.
        sentence: What was found, one sentence.
    """

    code: str
    severity: Severity
    sentence: str


# In the order they are printed. Of the other rows of its table only `none` has a say in what unranks a row.
FLAGS = (
    Flag("incomplete", "fatal", rules.incomplete),
    Flag("constant_or_nan", "fatal", rules.constant_or_nan),
    Flag("no_room", "fatal", rules.no_room),
    Flag("no_control", "fatal", rules.no_control),
    Flag("utility_at_majority", "fatal", rules.utility_at_majority),
    Flag("epsilon_without_ground", "fatal", rules.epsilon_without_ground),
    Flag(NOT_ESTABLISHED, "fatal", rules.not_established),
    Flag("fails_undefended", "fatal", rules.fails_undefended),
    Flag("planted_client_failed", "fatal", rules.planted),
    Flag("reused_noise", "fatal", rules.reused_noise),
    Flag("randomised_output", "caution", rules.randomised),
    Flag("not_converged", "caution", rules.not_converged),
    Flag("indicative", "caution", rules.indicative),
    Flag("leakage_below_control", "caution", rules.below_control),
    Flag("weaker_beats_stronger", "caution", rules.weaker_beats_stronger),
    Flag("fewer_attacks", "caution", rules.fewer_attacks),
    Flag("interval_wider_than_gap", "caution", rules.wider_than_gap),
    Flag("epsilon_invalid", "label", rules.epsilon_invalid),
    Flag("inactive", "label", rules.inactive),
)


def flags_of(table: Sequence[Standing]) -> dict[RowKey, list[Raised]]:
    """The flags of every row, fatal ones first, then in the order of `FLAGS`.

    Args:
        table: All rows that are ranked among each other.
    """
    alone = Table(table)
    fatal = {standing.row.key: _raised(standing, alone, ("fatal",)) for standing in table}
    trusted = frozenset(s.row.key for s in table if s.tier is not None and not fatal[s.row.key])
    whole = Table(table, trusted)
    return {s.row.key: fatal[s.row.key] + _raised(s, whole, ("caution", "label")) + _unknown(s) for s in table}


def is_fatal(raised: Sequence[Raised]) -> bool:
    """Whether one of the flags leaves its row unranked."""
    return any(flag.severity == "fatal" for flag in raised)


def meaning(code: str) -> str:
    """One sentence for a code; for one that only a run knows, that it does."""
    return {flag.code: flag.meaning for flag in FLAGS}.get(code, "Raised while a cell of the row ran.")


def _raised(standing: Standing, table: Table, severities: Sequence[Severity]) -> list[Raised]:
    found = []
    for flag in FLAGS:
        if flag.severity in severities:
            sentence = flag.rule(standing, table)
            if sentence is not None:
                found.append(Raised(flag.code, flag.severity, sentence))
    return found


def _unknown(standing: Standing) -> list[Raised]:
    known = {flag.code for flag in FLAGS}
    codes = {code for record in standing.row.records for code in record.flags} - known
    return [Raised(code, "caution", "raised while a cell of this row ran") for code in sorted(codes)]
