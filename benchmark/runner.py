"""Carries out groups of cells: victims, views, attack, scores, records."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmark import registry
from benchmark.compiled.agreement import in_use
from benchmark.context import RunContext, chosen_device
from benchmark.data import Dataset, load_dataset, targets_digest
from benchmark.environment import environment
from benchmark.errors import PluginError, UserError
from benchmark.evidence import client_evidence, target_evidence
from benchmark.finding import Budget, Finding
from benchmark.lanes import stages
from benchmark.memory import peak_memory, restart_peak_memory
from benchmark.metrics.recognition import Recogniser, obtain_recogniser
from benchmark.observe import Observation, observe, target_positions
from benchmark.once import once
from benchmark.planted_verdicts import Verdict, verdict_key, with_verdict
from benchmark.record import RESULTS_VERSION, Record
from benchmark.scoring import assemble, score_finding
from benchmark.seeds import Rng
from benchmark.shield import shielded
from benchmark.tensors import save_tensors
from benchmark.victim import Victim, obtain_victim

if TYPE_CHECKING:
    from benchmark.cell import Cell, Group, VictimSpec
    from benchmark.view import Phase

Progress = Callable[[float], None]


def train_victims(group: Group, context: RunContext, progress: Progress = lambda _: None) -> None:
    """Train and cache what the group and its scores need, so that its time is not counted as an attack's."""
    needed = (spec for cell in group.cells for spec in (cell.victim, cell.victim.undefended()))
    specs = {spec.key(): spec for spec in needed}
    for done, spec in enumerate(specs.values()):

        def report(part: float, before: int = done) -> None:
            progress((before + part) / len(specs))

        _victim(spec, context, report)
    for cell in group.cells:
        _recogniser(cell, context)
    progress(1.0)


def run_group(group: Group, context: RunContext, progress: Progress = lambda _: None) -> Iterator[Record]:
    """Run a group's attack on all its views at once and yield a record a cell.

    Raises:
        UserError: A plug-in broke its contract or asked for what it is not granted.
        Exception: Whatever the attack raises.
    """
    first = group.cells[0]
    attack = registry.load_attack(first.attack)
    stated = (context.verdicts or {}).get(verdict_key(first.attack))
    verdict = None if stated is None else Verdict.from_json(stated)
    datasets = [_dataset_of(cell, context) for cell in group.cells]
    victims = [_victim(cell.victim, context) for cell in group.cells]
    clients, observations = [], []
    for cell, victim, dataset in zip(group.cells, victims, datasets, strict=True):
        # Before its view is made: until then no hook has drawn anything that it could keep.
        clients.append(_client_evidence(victim, dataset))
        with shielded(_stream("observed", cell)):
            observations.append(observe(cell, victim, dataset, attack))
    # What lanes of this head need is compiled now, if it is not yet: that is not the attack's time.
    stages(victims[0].split.head)
    restart_peak_memory()
    started = time.perf_counter()
    with shielded(_stream("attack", first)):
        findings = attack.run([seen.view for seen in observations], Budget(context.memory), progress)
    seconds = time.perf_counter() - started
    progress(1.0)
    if not isinstance(findings, list) or len(findings) != len(group.cells):
        raise PluginError(
            f"attack {first.attack.name}: run returned {len(findings) if isinstance(findings, list) else findings!r} "
            f"findings for {len(group.cells)} views; return a list with one each"
        )
    for cell, victim, dataset, client, seen, finding in zip(
        group.cells, victims, datasets, clients, observations, findings, strict=True
    ):
        recogniser = _recogniser(cell, context)
        undefended = _victim(cell.victim.undefended(), context)
        with shielded(_stream("scored", cell)):
            scores = score_finding(cell, victim, dataset, seen, finding, recogniser, undefended=undefended)
            # Before the record: a record that is stored has its images.
            if context.images is not None and "reconstruct" in cell.goals:
                _keep_images(Path(context.images), cell, finding, scores.convergence["checkpoint"])
            record = assemble(
                cell,
                victim,
                dataset,
                seen,
                scores,
                suite=context.suite,
                suite_digest=context.suite_digest,
                undefended=undefended,
                evidence=client | _target_evidence(victim, dataset, seen, cell.phase),
                run=_run_facts(cell, context, seconds / len(group.cells)),
            )
        yield with_verdict(record, verdict)


def images_file(folder: Path, key: str) -> Path:
    """Where the reconstructions of the cell with this key are kept: tensor `reconstructions`, as the attack gave them.

    They are [n, channels, height, width], of the checkpoint that was scored, in the order of the record's targets.
    """
    return folder / f"{key}.safetensors"


def failed_record(cell: Cell, context: RunContext, reason: str, traceback: str | None) -> Record:
    """The record of a cell that could not be measured."""
    return Record(
        key=cell.key(),
        suite=context.suite,
        suite_digest=context.suite_digest,
        axes=cell.axes(),
        status="failed",
        reason=reason,
        traceback=traceback,
        targets=_intended_targets(cell, context),
        run=_run_facts(cell, context, 0.0),
    )


@lru_cache(maxsize=2)
def _dataset(spec: str, root: str | None, perturbation: float) -> Dataset:
    dataset = load_dataset(spec, root=None if root is None else Path(root))
    if not perturbation:
        return dataset
    parts = {name: getattr(dataset, name) for name in ("victim", "auxiliary", "test")}
    moved = {
        name: replace(part, images=part.images + perturbation * Rng("perturbation", name).normal_like(part.images))
        for name, part in parts.items()
    }
    return replace(dataset, **moved)


def _keep_images(folder: Path, cell: Cell, finding: Finding, checkpoint: int) -> None:
    assert finding.reconstructions is not None  # scored by now
    save_tensors(images_file(folder, cell.key()), {"reconstructions": finding.reconstructions[checkpoint]}, {})


def _intended_targets(cell: Cell, context: RunContext) -> dict[str, Any]:
    """What would have been attacked; no more than the data set's digest where that itself is what fails."""
    known: dict[str, Any] = {"dataset_digest": cell.victim.dataset_digest}
    try:
        dataset = _dataset_of(cell, context)
        part = dataset.test if cell.phase == "inference" else dataset.victim
        part = part.select(target_positions(cell, dataset))
    except UserError:
        return known
    return known | {"ids": part.ids.tolist(), "labels": part.labels.tolist(), "digest": targets_digest(part)}


def _victim(spec: VictimSpec, context: RunContext, progress: Progress = lambda _: None) -> Victim:
    dataset = _dataset(spec.dataset, context.data_root, context.perturbation)
    # Without the defense, as everything that is drawn for a victim.
    with shielded(Rng("global streams", "victim", spec.dataset, spec.model.name, spec.seed)):
        return obtain_victim(spec, dataset, Path(context.cache), chosen_device(context.device), progress)


def _client_evidence(victim: Victim, dataset: Dataset) -> dict[str, Any]:
    return _evidence(victim, dataset, (), lambda: client_evidence(victim, dataset))


def _target_evidence(victim: Victim, dataset: Dataset, seen: Observation, phase: Phase) -> dict[str, Any]:
    targets = (phase, *seen.truth.ids.tolist())
    return _evidence(victim, dataset, targets, lambda: target_evidence(victim, dataset, seen.truth, phase))


def _evidence(
    victim: Victim, dataset: Dataset, what: tuple[object, ...], gather: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    # What hooks draw from the global streams must not depend on which attack asked first.
    def measure() -> dict[str, Any]:
        with shielded(Rng("global streams", "evidence", victim.spec.key())):
            return gather()

    return once(victim, dataset, ("evidence", *what), measure)


def _stream(purpose: str, cell: Cell) -> Rng:
    # What plug-ins find in the global streams: the same on every victim, as all that an attack draws.
    return Rng("global streams", purpose, cell.attack.name, cell.attack_seed)


def _recogniser(cell: Cell, context: RunContext) -> Recogniser | None:
    """The classifier that reads what a cell reconstructs; None where nothing is."""
    if "reconstruct" not in cell.goals:
        return None
    return _kept_recogniser(_dataset_of(cell, context), Path(context.cache))


def _dataset_of(cell: Cell, context: RunContext) -> Dataset:
    return _dataset(cell.victim.dataset, context.data_root, context.perturbation)


@lru_cache(maxsize=2)
def _kept_recogniser(dataset: Dataset, cache: Path) -> Recogniser:
    # One object a process: what it read of targets and controls is remembered by it.
    return obtain_recogniser(dataset, cache)


def _run_facts(cell: Cell, context: RunContext, seconds: float) -> dict[str, Any]:
    refs = [cell.attack, cell.victim.model, *cell.victim.defenses]
    return {
        "seconds": seconds,
        "peak_memory": peak_memory(),
        "device": str(chosen_device(context.device)),
        "threads": torch.get_num_threads(),
        # Whose convolutions lanes on a CPU have had so far: they round differently.
        "environment": {**environment(), "cpu_convolutions": "compiled" if in_use() else "PyTorch"},
        "results": RESULTS_VERSION,
        "plugins": [
            {"kind": r.kind, "name": r.name, "source": _public(r.source), "version": r.version, "digest": r.digest}
            for r in refs
        ],
    }


def _public(source: str) -> str:
    # Records are published: a path plug-in is named by its file, not by where it lay on somebody's disk.
    path, colon, name = source.rpartition(":")
    return f"{os.path.basename(path)}{colon}{name}" if colon else source
