"""When a result must not be trusted: each flag has a code, a weight and a meaning.

A *fatal* flag leaves the row unranked, a *caution* never does, a *label* only tells. F1 to F13 number the faults of
published evaluations that the flags answer. Rules read scores, what the harness found out about client and data
(`Record.evidence`), and what the run wrote into `Record.flags`; a code there that is unknown here counts as a caution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.attack_score import PLANTED_CLIENT_FAILED, PLANTED_CLIENT_UNKNOWN
from benchmark.flag_rules import claims, client, coverage, scores, utility
from benchmark.flag_rules.table import Table
from benchmark.rows import RowKey
from benchmark.standing import Standing

Severity = Literal["fatal", "caution", "label"]

NOT_ESTABLISHED = "not_established"
TOLD = "raised while a cell of this row ran"


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        code: What the leaderboard prints.
        severity: `fatal` leaves the row unranked; `caution` and `label` do not.
        rule: What it looks for; its docstring is the flag's meaning.
        fault: The fault it answers, `F1` to `F13`, or empty.
    """

    code: str
    severity: Severity
    rule: Callable[[Standing, Table], str | None]
    fault: str = ""

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
    Flag("incomplete", "fatal", coverage.incomplete),
    Flag("constant_or_nan", "fatal", client.constant_or_nan),
    Flag("no_room", "fatal", scores.no_room),
    Flag("no_control", "fatal", scores.no_control),
    Flag("utility_at_majority", "fatal", utility.utility_at_majority, "F8"),
    Flag("memorises_test", "fatal", utility.memorises_test),
    Flag("epsilon_without_ground", "fatal", claims.epsilon_without_ground, "F9"),
    Flag("claim_refuted", "fatal", claims.claim_refuted),
    Flag("stance_missing", "fatal", coverage.stance_missing),
    Flag(NOT_ESTABLISHED, "fatal", coverage.not_established, "F6"),
    Flag("fails_undefended", "fatal", coverage.fails_undefended),
    Flag(PLANTED_CLIENT_FAILED, "fatal", coverage.planted, "F3"),
    Flag("reused_noise", "fatal", client.reused_noise, "F10"),
    Flag("randomised_output", "caution", client.randomised, "F5"),
    Flag("gradient_masked", "caution", client.gradient_masked, "F4"),
    Flag("auxiliary_overlap", "caution", client.auxiliary_overlap, "F12"),
    Flag("phase_missing", "caution", coverage.phase_missing),
    Flag("planted_failed_by_some", "caution", coverage.planted_by_some, "F3"),
    Flag("not_converged", "caution", coverage.not_converged, "F6"),
    Flag("indicative", "caution", coverage.indicative),
    Flag("leakage_below_control", "caution", scores.below_control, "F7"),
    Flag("identified_anyway", "caution", scores.identified_anyway),
    Flag("weaker_beats_stronger", "caution", scores.weaker_beats_stronger, "F1"),
    Flag("not_monotone", "caution", scores.not_monotone, "F2"),
    Flag("fewer_attacks", "caution", coverage.fewer_attacks),
    Flag("interval_wider_than_gap", "caution", scores.wider_than_gap, "F13"),
    Flag("epsilon_invalid", "label", claims.epsilon_invalid),
    Flag("inactive", "label", client.inactive, "F11"),
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
    return {s.row.key: fatal[s.row.key] + _raised(s, whole, ("caution", "label")) for s in table}


def is_fatal(raised: Sequence[Raised]) -> bool:
    """Whether one of the flags leaves its row unranked."""
    return any(flag.severity == "fatal" for flag in raised)


def meaning(code: str) -> str:
    """One sentence for a code; for one that only a run knows, that it does."""
    return {flag.code: flag.meaning for flag in FLAGS}.get(code, "Raised while a cell of the row ran.")


def _raised(standing: Standing, table: Table, severities: Sequence[Severity]) -> list[Raised]:
    # One attack that fails its planted clients is weighed with the others of the row.
    weighed = {PLANTED_CLIENT_FAILED, PLANTED_CLIENT_UNKNOWN}
    told = {code for record in standing.row.records for code in record.flags} - weighed
    found = []
    for flag in FLAGS:
        if flag.severity in severities:
            sentence = flag.rule(standing, table) or (TOLD if flag.code in told else None)
            if sentence is not None:
                found.append(Raised(flag.code, flag.severity, sentence))
    unknown = sorted(told - {flag.code for flag in FLAGS}) if "caution" in severities else []
    return found + [Raised(code, "caution", TOLD) for code in unknown]
