"""Flags on scores: nothing to measure, below control, and orders that leakage must keep."""

from __future__ import annotations

import math
from collections import defaultdict

from benchmark.attack_score import AttackScore
from benchmark.comparison import difference
from benchmark.flag_rules.strength import stronger_first, with_more_budget
from benchmark.flag_rules.table import Table
from benchmark.record_values import image_mean, number
from benchmark.rows import Configuration, includes
from benchmark.standing import STANCES, Standing

# Two results differ by more than this before an order counts as broken: five hundredths of the leakage scale, what
# one restart moves when the inputs move by 1e-7.
WORSE_BY = 0.05
HALF = 0.5


def no_room(standing: Standing, table: Table) -> str | None:
    """The best control scores what a perfect attack would, so that nothing is left to measure."""
    for key, score in standing.scores.items():
        if math.isfinite(score.mean) and math.isfinite(score.control_mean) and not math.isfinite(score.score):
            return f"beside attack {key.title} the control {score.control} reaches {score.control_mean:.3f}"
    return None


def no_control(standing: Standing, table: Table) -> str | None:
    """An attack has no control beside it, so that its score means nothing."""
    for key, score in standing.scores.items():
        if not math.isfinite(score.control_mean):
            return f"attack {key.title} has no finite control"
    return None


def below_control(standing: Standing, table: Table) -> str | None:
    """The attack that leaks most does worse than a control that does without what leaks."""
    if standing.worst is None or standing.scores[standing.worst].score >= 0:
        return None
    score = standing.scores[standing.worst]
    without = "the gradient" if standing.row.key.goal == "labels" else "the smashed data"
    return (
        f"{standing.worst.title} scores {score.mean:.3f}, the control {score.control} {score.control_mean:.3f} "
        f"without {without}"
    )


def identified_anyway(standing: Standing, table: Table) -> str | None:
    """Less than half of the leakage scale, but most images are told apart from all others: faint is not hidden."""
    rate = standing.most(lambda record: image_mean(record, "identified"))
    # Leakage asks for likeness; who knows the candidates needs much less than a likeness.
    if not (standing.leakage < HALF < rate):
        return None
    candidates = standing.most(lambda record: number(record.scalars, "identification_candidates"))
    return f"leakage {standing.leakage:.3f}, but an attack identifies {rate:.0%} of the images among {candidates:.0f}"


def weaker_beats_stronger(standing: Standing, table: Table) -> str | None:
    """A method at its best does worse with more knowledge, or although it knows the defense."""
    best: dict[tuple[str, str, str], dict[tuple[str, str], tuple[AttackScore, Configuration]]] = defaultdict(dict)
    for key, score in standing.scores.items():
        known = best[key.attack, key.phase, key.targets]
        place = key.threat_model, key.stance
        if place not in known or score.score > known[place][0].score:
            known[place] = score, key
    for known in best.values():
        for weak, (low, weaker) in known.items():
            for strong, (high, stronger) in known.items():
                if _knows_more(strong, weak) and low.score > high.score + WORSE_BY:
                    return (
                        f"{weaker.title} ({', '.join(weak)}) reaches {low.score:.3f}, "
                        f"{stronger.title} ({', '.join(strong)}) {high.score:.3f}"
                    )
    return None


def _knows_more(strong: tuple[str, str], weak: tuple[str, str]) -> bool:
    order = {stance: place for place, stance in enumerate(STANCES)}
    more = includes(strong[0], weak[0]) and order.get(strong[1], 0) >= order.get(weak[1], 0)
    return more and strong != weak


def not_monotone(standing: Standing, table: Table) -> str | None:
    """A method finds more where the defense is stronger, or less where it may spend more: it falls short somewhere."""
    for weak, strong in stronger_first(standing, table.rows):
        # What only one of them was attacked by would be compared with nothing.
        shared = [key for key in weak.samples if key in strong.samples]
        for method in sorted({key.attack for key in shared}):
            keys = [key for key in shared if key.attack == method]
            found = difference([strong.samples[key] for key in keys], [weak.samples[key] for key in keys])
            if found.estimate > WORSE_BY and found.low > 0:
                names = [f"{row.row.key.defense} {row.row.key.params}".strip() for row in (strong, weak)]
                return (
                    f"{method} finds {found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}] more behind the stronger "
                    f"{names[0]} than behind {names[1]}"
                )
    for less, more in with_more_budget(standing):
        found = difference([standing.samples[more]], [standing.samples[less]])
        if found.estimate < -WORSE_BY and found.high < 0:
            return (
                f"{_spent(more)} finds {-found.estimate:.3f} [{-found.high:.3f}, {-found.low:.3f}] less than "
                f"{_spent(less)}"
            )
    return None


def _spent(key: Configuration) -> str:
    return f"{key.title} ({key.stance}, {key.phase}) with {key.views} view{'s' if key.views > 1 else ''}"


def wider_than_gap(standing: Standing, table: Table) -> str | None:
    """The interval is wider than the distance to the next row of its tier."""
    gaps = {
        abs(other.leakage - standing.leakage): other
        for other in sorted(table.rows, key=lambda other: other.row.key.defense, reverse=True)
        if other is not standing and other.tier == standing.tier and other.row.key in table.trusted
    }
    if not gaps or standing.row.key not in table.trusted:
        return None
    gap, width = min(gaps), standing.high - standing.low
    if width <= gap:
        return None
    neighbour = gaps[gap].row.key
    return f"interval {width:.3f} wide, {neighbour.defense} {neighbour.params} is {gap:.3f} away".replace("  ", " ")
