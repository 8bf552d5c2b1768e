"""Flags on what was attacked and how: gaps, stances, phases, planted clients, rest."""

from __future__ import annotations

import math

from benchmark.flag_rules.table import Table
from benchmark.rows import configurations
from benchmark.standing import PHASES, Standing

INDICATIVE_UNDER = 3


def incomplete(standing: Standing, table: Table) -> str | None:
    """A planned cell is missing, failed or was skipped, so that means are gaps."""
    if standing.row.complete:
        return None
    missing = [slot for slot in standing.row.slots if slot.done is None]
    first = missing[0]
    if first.record is None:
        why = "has not been run"
    else:
        why = f"{first.record.status}: {first.record.reason or 'no reason given'}"
    return (
        f"{len(missing)} of {len(standing.row.slots)} planned cells are not done; "
        f"attack {first.axes.attack} at seed {first.axes.seed} {why}"
    )


def stance_missing(standing: Standing, table: Table) -> str | None:
    """No attack is done that knows the defense, or none that averages over it or undoes it, or none that ignores it."""
    met = {record.axes.stance for record in standing.row.records}
    missing = [stance for stance in standing.mandatory if stance not in met]
    return f"no done attack is {' or '.join(missing)}" if missing else None


def not_established(standing: Standing, table: Table) -> str | None:
    """The attack that leaks most, or every attack of a stance, did not come to rest or fails planted clients."""
    if standing.worst is None or standing.established:
        return None
    score = standing.scores[standing.worst]
    reasons = []
    if not standing.worst_speaks:
        rests = f"converged in {score.converged:.0%} of its cells"
        why = rests if score.planted else "does not pass its planted clients"
        reasons.append(f"{standing.worst.title}, which leaks most, {why}")
    if standing.silent:
        reasons.append(
            f"no {' or '.join(standing.silent)} attack converged in all cells and passes its planted clients"
        )
    return "; ".join(reasons)


def fails_undefended(standing: Standing, table: Table) -> str | None:
    """The table's attacks gain nothing even where nothing is defended: their failure is no merit of a defense."""
    for other in table.rows:
        if other.row.key.defense == "none" and math.isfinite(other.low) and other.low <= 0:
            return f"without a defense the same attacks reach {other.leakage:.3f}, an interval from {other.low:.3f}"
    return None


def planted(standing: Standing, table: Table) -> str | None:
    """No attack passes its planted clients, which hide nothing."""
    if standing.scores and not any(score.planted for score in standing.scores.values()):
        return "no attack of the row passes its planted clients"
    return None


def planted_by_some(standing: Standing, table: Table) -> str | None:
    """An attack fails on a planted client that hides nothing: what it finds counts, what it misses does not."""
    failing = [key for key, score in standing.scores.items() if not score.planted]
    if not failing or len(failing) == len(standing.scores):
        return None
    return f"not passed by {'; '.join(sorted({f'{key.title} ({key.stance})' for key in failing}))}"


def not_converged(standing: Standing, table: Table) -> str | None:
    """An attack's own loss still moved by 1 % or more over the last tenth of its budget."""
    names = [key.title for key, score in standing.scores.items() if score.converged < 1]
    return f"not converged at every seed: {'; '.join(names)}" if names else None


def phase_missing(standing: Standing, table: Table) -> str | None:
    """What the server sees in training, or in use, was not attacked: a defense of the other phase looks whole."""
    if standing.row.key.defense == "none" or standing.row.key.goal != "inputs":
        return None
    met = {record.axes.phase for record in standing.row.records}
    seen = {record.axes.phase for other in table.rows for record in other.row.records}
    if any(record.evidence.get("watched") for record in standing.row.records):
        seen |= set(PHASES)
    missing = [phase for phase in PHASES if phase in seen - met]
    if not missing or not met:
        return None
    bare = [phase for phase in missing if standing.sends_bare(phase)]
    more = f"; its hooks of {' and '.join(bare)} leave the head's output as it is, bit by bit" if bare else ""
    return f"no done attack in phase {' or '.join(missing)}{more}"


def fewer_attacks(standing: Standing, table: Table) -> str | None:
    """Not attacked by what other defenses of this table were attacked by."""
    if standing.row.key.defense == "none":
        return None
    own = set(configurations(standing.row.slots))
    missing = sorted({key.title for other in table.rows for key in configurations(other.row.slots) if key not in own})
    return f"not attacked by {'; '.join(missing)}" if missing else None


def indicative(standing: Standing, table: Table) -> str | None:
    """Fewer than 3 victim seeds: the interval covers less than it says."""
    n = len({slot.axes.seed for slot in standing.row.slots})
    return f"{n} victim seed{'s' if n > 1 else ''}" if n < INDICATIVE_UNDER else None
