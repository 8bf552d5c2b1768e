"""From records and the plan to the leaderboard's rows: which cells each row answers for, and what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from benchmark.cell import Plan, canonical_json
from benchmark.errors import UserError
from benchmark.record import Axes, Record

GOALS = {"reconstruct": "inputs", "infer_labels": "labels", "steal": "client_model"}
WHITE_BOX = "white box"
WEIGHT_GRADIENTS = "weight gradients"


@dataclass(frozen=True)
class Slot:
    """A planned cell and what became of it.

    Attributes:
        key: Content key of the cell.
        axes: Where it stands.
        record: Its record, of any status, or None where there is none.
    """

    key: str
    axes: Axes
    record: Record | None

    @property
    def done(self) -> Record | None:
        """The record of a cell that is done, else None."""
        return self.record if self.record is not None and self.record.status == "done" else None


class Configuration(NamedTuple):
    """One way to attack: everything about a cell but its victim and its seeds."""

    attack: str
    attack_params: str
    stance: str
    phase: str
    views: int
    threat_model: str
    role: str
    targets: str
    precision: str

    @property
    def title(self) -> str:
        """`name` or `name:parameters`."""
        return self.attack + (f":{self.attack_params}" if self.attack_params else "")


class RowKey(NamedTuple):
    """What one row answers for."""

    goal: str
    dataset: str
    model: str
    topology: str
    tail: str | None
    victim: str
    cut: str
    threat_model: str
    defense: str
    params: str
    side: str

    @property
    def table(self) -> tuple[str | None, ...]:
        """Within what ranks hold: everything before the defense."""
        return tuple(self)[:8]


@dataclass(frozen=True)
class Row:
    """A row's cells.

    Attributes:
        key: What it answers for.
        slots: The attacks that count: those whose knowledge the row's threat model includes.
        references: White-box cells on the same victims, for the goal.
    """

    key: RowKey
    slots: tuple[Slot, ...]
    references: tuple[Slot, ...]

    @property
    def records(self) -> list[Record]:
        """Records of the attacks that are done."""
        return [slot.done for slot in self.slots if slot.done is not None]

    @property
    def complete(self) -> bool:
        """Whether every planned attack is done."""
        return all(slot.done is not None for slot in self.slots)


def slots(records: Sequence[Record], plan: Plan | None = None) -> list[Slot]:
    """Every planned cell, and every further cell there is a record of, sorted by where it stands.

    A record that is not planned but stands where a planned cell does comes from an older version of a plug-in or of
    the harness and is left out.

    Raises:
        UserError: Records of different suites or digests meet, or two cells stand in the same place.
    """
    _one_suite(records, plan)
    by_key: dict[str, Record] = {}
    for record in records:
        known = by_key.get(record.key)
        by_key[record.key] = record if known is None else min(known, record, key=_preference)
    planned = {cell.key(): cell.axes() for cell in plan.cells} if plan else {}
    taken = {axes_text(axes) for axes in planned.values()}
    further = {
        key: record.axes for key, record in by_key.items() if key not in planned and axes_text(record.axes) not in taken
    }
    found: dict[str, Slot] = {}
    for key, axes in sorted({**planned, **further}.items()):
        place = axes_text(axes)
        if place in found:
            raise UserError(
                f"two cells stand in the same place ({place}) with the keys {found[place].key[:12]} and {key[:12]}: "
                "name the plug-in whose version is meant (--defense, --attack), or tell the defenses apart by name"
            )
        found[place] = Slot(key, axes, by_key.get(key))
    return [found[place] for place in sorted(found)]


def _one_suite(records: Iterable[Record], plan: Plan | None) -> None:
    suites = {(record.suite, record.suite_digest) for record in records}
    if plan is not None:
        suites.add((plan.suite, plan.suite_digest))
    if len(suites) > 1:
        listed = ", ".join(f"{name} (digest {digest[:12]})" for name, digest in sorted(suites))
        raise UserError(
            f"results of different suites never meet in one table: {listed}; give the records of one suite, "
            "and run again what was made with another version of its file"
        )


def _preference(record: Record) -> tuple[int, str]:
    order = {"done": 0, "failed": 1, "skipped": 2}
    return order[record.status], repr(sorted(record.to_json().items()))


def axes_text(axes: Axes) -> str:
    """Where a cell stands, as one line: `axis=value | axis=value`, in the order of `Axes`, absent ones left out."""
    parts = []
    for name, value in asdict(axes).items():
        if value is None or value == "":
            continue
        text = "+".join(value) if isinstance(value, list) else str(value)
        plain = " | " not in text and text.isprintable() and not text.startswith('"')
        parts.append(f"{name}={text if plain else canonical_json(text)}")
    return " | ".join(parts)


def configuration(axes: Axes) -> Configuration:
    """How a cell attacks."""
    return Configuration(**{name: getattr(axes, name) for name in Configuration._fields})


def configurations(found: Iterable[Slot]) -> dict[Configuration, list[Slot]]:
    """Cells by how they attack, sorted; each list holds seeds and attack seeds of one configuration."""
    groups: dict[Configuration, list[Slot]] = defaultdict(list)
    for slot in found:
        groups[configuration(slot.axes)].append(slot)
    return {key: groups[key] for key in sorted(groups)}


def includes(granted: str, needed: str) -> bool:
    """Whether an attacker of the threat model `granted` may do what one of `needed` does.

    An attacker who knows more may always do less; `white box` and `weight gradients` stand alone.
    """
    return set(needed.split("+")) <= set(granted.split("+"))


def threat_model_order(name: str) -> tuple[int, int, str]:
    """Sorts threat models from little to much knowledge, those that stand alone last."""
    return int(name in (WHITE_BOX, WEIGHT_GRADIENTS)), name.count("+"), name


def build_rows(found: Sequence[Slot]) -> list[Row]:
    """The rows, sorted: one for each goal, victim (but its seed) and threat model that an attack was planned for.

    White-box cells make no rows of their own: they stand beside the others as references.
    """
    groups: dict[RowKey, list[Slot]] = defaultdict(list)
    for slot in found:
        axes = slot.axes
        for goal in axes.goals:
            key = RowKey(
                goal=GOALS[goal],
                threat_model="",
                **{name: getattr(axes, name) for name in RowKey._fields if name not in ("goal", "threat_model")},
            )
            groups[key].append(slot)
    rows = []
    for key, members in groups.items():
        attacks = [s for s in members if s.axes.role == "attack" and s.axes.threat_model != WHITE_BOX]
        references = tuple(s for s in members if s.axes.threat_model == WHITE_BOX)
        for granted in {slot.axes.threat_model for slot in attacks}:
            counted = tuple(slot for slot in attacks if includes(granted, slot.axes.threat_model))
            rows.append(Row(key._replace(threat_model=granted), counted, references))
    return sorted(rows, key=lambda row: row_order(row.key))


def row_order(key: RowKey) -> tuple[object, ...]:
    """Sorts rows: by goal as in `GOALS`, table, then defense."""
    return (
        list(GOALS.values()).index(key.goal),
        key.dataset,
        key.model,
        key.topology,
        key.tail or "",
        key.victim,
        key.cut,
        threat_model_order(key.threat_model),
        key.defense != "none",
        key.defense,
        key.params,
        key.side,
    )


def undefended(axes: Axes) -> Axes:
    """Where the cell without defense stands that a defended one is compared with."""
    return replace(axes, defense="none", params="", side="none", cut_reached=axes.cut)
