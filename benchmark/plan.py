"""Suite -> plan: every victim and cell with its content key, in groups that run as lanes of one program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.cell import Cell, Group, Plan, PluginRef, VictimSpec, canonical_json
from benchmark.data import Facts, load_dataset
from benchmark.discovery import Kind
from benchmark.errors import DataMissingError, UserError
from benchmark.fitting import misplaced, targets_of, unworkable, watching_of
from benchmark.models import cuts, network, split
from benchmark.seeds import Rng
from benchmark.spec import Spec
from benchmark.suite_format import AttackEntry, Block, Suite
from benchmark.view import threat_model

if TYPE_CHECKING:
    from torch import nn

    from defenses.base import Defense

Defenses = tuple[PluginRef, ...]


def plan(
    suite: Suite,
    extra_defenses: Sequence[Sequence[PluginRef]] = (),
    extra_attacks: Sequence[PluginRef] = (),
    *,
    data_root: Path | None = None,
    download: bool = False,
    recorded: Mapping[str, Facts] | None = None,
) -> Plan:
    """Everything a suite asks for, as cells in groups.

    Args:
        suite: See `benchmark.suite.load_suite`.
        extra_defenses: Each a list applied in order; joins every block that has a `none` to compare with and whose
            topology fits, in groups of its own: the suite's own groups stay as they are.
        extra_attacks: Each meets every defense (extra ones too) of every block whose topology fits, in each phase it
            can work in.
        data_root: Where data sets lie; see `benchmark.data.data_root`.
        download: Fetch what is missing.
        recorded: What records say of data sets, by name; stands in for those whose files are not on this machine. Such
            a plan can be read results by, but not run.

    Returns:
        The groups in a fixed order: the suite's own, block by block, then those of the extras. A cell that several
        blocks ask for is run once.

    Raises:
        UserError: A plug-in, cut, tail or data set does not exist, or a combination that cannot work; names the block.
            Also if nothing is left to do.
    """
    planner = _Planner(suite, data_root, download, recorded or {})
    own = [cell for index in range(len(suite.blocks)) for cell in planner.cells(index)]
    extras = [
        cell
        for index in range(len(suite.blocks))
        for cell in planner.extra_cells(index, [tuple(refs) for refs in extra_defenses], extra_attacks)
    ]
    if not own:
        raise UserError(f"suite {suite.name}: asks for nothing; give its blocks defenses and attacks that meet")
    for title, wanted in (("defense", extra_defenses), ("attack", extra_attacks)):
        for one in wanted:
            _must_appear(title, one, extras, suite)
    seen: set[str] = set()
    groups = [group for cells in (own, extras) for group in _groups(cells, suite.group_size, seen, planner.datasets)]
    return Plan(suite.name, suite.digest, tuple(groups))


@dataclass
class _Planner:
    suite: Suite
    data_root: Path | None
    download: bool
    recorded: Mapping[str, Facts]

    @cached_property
    def datasets(self) -> dict[str, Facts]:
        """What is known of the suite's data sets, by name."""
        return {name: self._facts(name) for name in dict.fromkeys(n for b in self.suite.blocks for n in b.datasets)}

    def _facts(self, name: str) -> Facts:
        try:
            return load_dataset(name, self.data_root, self.download).facts
        except DataMissingError:
            if name in self.recorded:
                return self.recorded[name]
            raise

    def cells(self, index: int) -> Iterator[Cell]:
        """The cells that a block asks for."""
        block = self.suite.blocks[index]
        where = self._where(block)
        defenses = [self._defenses(where, specs) for specs in block.defenses]
        for refs in defenses:
            _check(where, misplaced(block, _loaded(refs), self.suite))
        attacks = [(entry, _reference(where, "attack", entry.attack, self.suite.folder)) for entry in block.attacks]
        for entry, ref in attacks:
            problem = unworkable(block, entry, registry.load_attack(ref), self.suite)
            _check(f"{where}, attack {ref.name}", problem)
        yield from self._crossed(block, defenses, attacks)

    def extra_cells(self, index: int, defenses: Sequence[Defenses], attacks: Sequence[PluginRef]) -> Iterator[Cell]:
        """The cells that defenses and attacks from outside add to a block."""
        block = self.suite.blocks[index]
        where = self._where(block)
        own = [self._defenses(where, specs) for specs in block.defenses]
        own_attacks = [(entry, _reference(where, "attack", entry.attack, self.suite.folder)) for entry in block.attacks]
        added = [refs for refs in defenses if () in own and misplaced(block, _loaded(refs), self.suite) is None]
        added_attacks = [(entry, ref) for ref in attacks for entry in _entries(block, ref, self.suite)]
        yield from self._crossed(block, added, own_attacks)
        yield from self._crossed(block, [*own, *added], added_attacks)

    def _where(self, block: Block) -> str:
        return f"suite {self.suite.name}, block {block.name!r}"

    def _defenses(self, where: str, specs: Sequence[Spec]) -> Defenses:
        refs = [_reference(where, "defense", spec, self.suite.folder) for spec in specs]
        # A victim without defenses is one victim, however it is written.
        return tuple(ref for ref in refs if ref.name != "none")

    def _crossed(
        self, block: Block, defenses: Sequence[Defenses], attacks: Sequence[tuple[AttackEntry, PluginRef]]
    ) -> Iterator[Cell]:
        if not defenses or not attacks:
            return
        where = self._where(block)
        for dataset_name in block.datasets:
            dataset = self.datasets[dataset_name]
            for model_name in block.models:
                model = _reference(where, "model", Spec(model_name), self.suite.folder)
                whole = network(registry.load_model(model), dataset.image_shape, dataset.n_classes, Rng("plan"))
                for refs in defenses:
                    loaded = _loaded(refs)
                    for cut in block.cuts:
                        reached = _reached(f"{where}, model {model.name}", cut, block.tail, loaded, whole)
                        fitting = [(entry, ref) for entry, ref in attacks if _meets(entry, cut, refs)]
                        # What is watched enters a victim's key: victims are watched only where that is needed, and
                        # attacks from outside meet the block's own victims.
                        entries = [*block.attacks, *(entry for entry, _ in fitting)]
                        trained_on = any(e.phase == "training" and _meets(e, cut, refs) for e in entries)
                        for seed in block.seeds:
                            watched = VictimSpec(
                                dataset.name,
                                dataset.digest,
                                model,
                                block.topology,
                                cut,
                                reached,
                                block.tail,
                                refs,
                                seed,
                                block.training.epochs,
                                block.training.batch_size,
                                block.training.learning_rate,
                                watching_of(block, self.suite).watch() if trained_on else None,
                            )
                            yield from self._attacked(block, watched, loaded, fitting)

    def _attacked(
        self,
        block: Block,
        victim: VictimSpec,
        loaded: Sequence[Defense],
        attacks: Sequence[tuple[AttackEntry, PluginRef]],
    ) -> Iterator[Cell]:
        side = " + ".join(dict.fromkeys(defense.side for defense in loaded)) or "none"
        for entry, ref in attacks:
            attack = registry.load_attack(ref)
            training = entry.phase == "training"
            assumed = None
            if entry.assumes is not None:
                assumed = _reference(self._where(block), "model", Spec(entry.assumes), self.suite.folder)
            for attack_seed in entry.seeds:
                yield Cell(
                    victim=victim,
                    attack=ref,
                    attack_seed=attack_seed,
                    phase=entry.phase,
                    views=entry.views or (victim.watched_epochs if training else 1),
                    targets=targets_of(entry, block, self.suite),
                    goals=tuple(attack.goals),
                    role=attack.role,
                    stance=attack.stance,
                    threat_model=threat_model(attack.knowledge(), assumed.name if assumed else None),
                    side=side,
                    assumed=assumed,
                )


def _reference(where: str, kind: Kind, spec: Spec, folder: Path) -> PluginRef:
    try:
        return registry.reference(kind, spec, folder)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _meets(entry: AttackEntry, cut: str, refs: Defenses) -> bool:
    return (entry.cuts is None or cut in entry.cuts) and (entry.defenses == "all" or not refs)


def _loaded(refs: Defenses) -> list[Defense]:
    return [registry.load_defense(ref) for ref in refs]


def _check(where: str, problem: str | None) -> None:
    if problem is not None:
        raise UserError(f"{where}: {problem}")


def _reached(where: str, cut: str, tail: str | None, loaded: Sequence[Defense], whole: nn.Sequential) -> str:
    """The cut that is used when `cut` is asked for, checked to exist and to leave the server something."""
    allowed = list(cuts(whole))
    try:
        split(whole, cut, tail)
        reached = cut
        for defense in loaded:
            reached = defense.moved_cut(reached, allowed)
        split(whole, reached, tail)
    except UserError as error:
        defended = f", defense {' + '.join(defense.spec() for defense in loaded)}" if loaded else ""
        raise UserError(f"{where}, cut {cut!r}{defended}: {error}") from None
    return reached


def _entries(block: Block, ref: PluginRef, suite: Suite) -> Iterator[AttackEntry]:
    """How an attack from outside is run in a block: in each phase where that can work."""
    attack = registry.load_attack(ref)
    for phase in attack.phases:
        # The rest of the training phase is for those who ask for it: without a watch nothing is kept.
        entry = AttackEntry(attack=Spec(ref.name, ref.parameters), phase=phase)
        watched = any(other.phase == "training" for other in block.attacks)
        if (phase == "inference" or watched) and unworkable(block, entry, attack, suite) is None:
            yield entry


def _must_appear(title: str, wanted: Any, extras: Sequence[Cell], suite: Suite) -> None:
    refs = (wanted,) if isinstance(wanted, PluginRef) else tuple(ref for ref in wanted if ref.name != "none")
    for cell in extras:
        if refs in ((cell.attack,), cell.victim.defenses):
            return
    names = " + ".join(ref.name for ref in refs) or "none"
    remedy = "it needs a block of a fitting topology" + (" that also has `none`" if title == "defense" else "")
    raise UserError(f"--{title} {names}: no block of suite {suite.name} can take it; {remedy}, choose another suite")


def _groups(cells: Sequence[Cell], size: int, seen: set[str], datasets: Mapping[str, Facts]) -> Iterator[Group]:
    """Cells of equal shape together, at most `size` of them, in the order in which their first one was asked for."""
    together: dict[str, list[Cell]] = {}
    for cell in cells:
        key = cell.key()
        if key not in seen:
            seen.add(key)
            together.setdefault(_shape(cell, datasets[cell.victim.dataset]), []).append(cell)
    for alike in together.values():
        for start in range(0, len(alike), size):
            yield Group(tuple(alike[start : start + size]))


def _shape(cell: Cell, dataset: Facts) -> str:
    """What the cells of a group share."""
    victim = cell.victim
    # Who is given nothing of a data set but its shapes is run on several at once: more lanes cost less each.
    nothing = threat_model((), cell.assumed.name if cell.assumed else None)
    oblivious = cell.threat_model == nothing and cell.phase == "inference"
    return canonical_json(
        [
            cell.attack.identity(),
            cell.attack_seed,
            cell.phase,
            cell.views,
            [cell.targets.how, cell.targets.n],
            cell.assumed and cell.assumed.identity(),
            cell.precision,
            [dataset.image_shape, dataset.n_classes] if oblivious else dataset.name,
            victim.model.identity(),
            victim.topology,
            victim.tail,
            victim.cut_reached,
            [defense.name for defense in victim.defenses],
        ]
    )
