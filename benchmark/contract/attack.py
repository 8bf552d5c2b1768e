"""What an attack does, tried on views of small real victims in every phase and topology it says it works in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.cell import Cell, PluginRef
from benchmark.contract import ground
from benchmark.contract.check import BrokenContractError, Check, DisturbedError, tried, undisturbed
from benchmark.contract.ground import SETTINGS, Setting
from benchmark.errors import UserError
from benchmark.finding import Budget, Finding
from benchmark.observe import Observation, observe
from benchmark.scoring import score_finding
from benchmark.victim import Victim
from benchmark.view import Phase, ServerView

_NO_DEVICE = "a tensor was made without device=; write torch.zeros(..., device=view.device)"
_SEEDS = (0, 1)


def shortest(cls: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters with every whole number that was not set at its lowest: a run that takes seconds, not hours."""
    lowest = {}
    for name, field in cls.model_fields.items():
        bounds = [item.ge for item in field.metadata if getattr(item, "ge", None) is not None]
        # A smaller batch makes a longer run.
        if field.annotation is int and bounds and name not in parameters and "batch" not in name:
            lowest[name] = max(bounds)
    try:
        cls.configured({**lowest, **parameters})
    except UserError:
        return parameters
    return {**lowest, **parameters}


def attack_checks(ref: PluginRef) -> Iterator[Check]:
    """Runs in each phase and topology, with what the attack says it knows and nothing else."""
    attack = registry.load_attack(ref)
    for setting in SETTINGS:
        for phase in ("inference", "training"):
            if setting.topology not in attack.topologies or phase not in attack.phases:
                continue
            # Known labels are those of other samples whose training was watched.
            if phase == "inference" and attack.known_labels_per_class():
                yield Check(f"{setting.topology}, inference: it can have what it wants", "it wants known labels, which "
                            'only training gives; write phases: ClassVar[...] = ("training",)')  # fmt: skip
                continue
            with tempfile.TemporaryDirectory() as folder:
                subject = _Subject(ref, setting, phase, Path(folder))
                yield from _checks(f"{setting.topology}, {phase}", subject)


class _Subject:
    """An attack and two victims it is run on at once."""

    def __init__(self, ref: PluginRef, setting: Setting, phase: Phase, folder: Path) -> None:
        self.ref, self.phase = ref, phase
        known = max(1, registry.load_attack(ref).known_labels_per_class()) if phase == "training" else None
        specs = [ground.victim_spec(setting, seed=seed, known_per_class=known) for seed in _SEEDS]
        self.victims: list[Victim] = [ground.trained(spec, folder) for spec in specs]
        attack = registry.load_attack(ref)
        self.cells: list[Cell] = [ground.cell(spec, ref, attack, phase) for spec in specs]
        self.fractions: list[float] = []

    def observed(self) -> list[Observation]:
        """Fresh observations, equal every time."""
        attack = registry.load_attack(self.ref)
        pairs = zip(self.cells, self.victims, strict=True)
        return [observe(cell, victim, ground.digits(), attack) for cell, victim in pairs]

    def run(self, seen: Sequence[Observation]) -> list[Finding]:
        """The attack's findings, one a view."""
        found = registry.load_attack(self.ref).run([one.view for one in seen], Budget(), self.fractions.append)
        if not isinstance(found, list) or len(found) != len(seen):
            kind = type(found).__name__
            raise BrokenContractError(f"run gives {kind} for {len(seen)} views; give a list with one Finding each")
        for finding in found:
            if not isinstance(finding, Finding):
                raise BrokenContractError(f"run gives {type(finding).__name__} in its list; give Finding objects")
        return found

    def first_run(self) -> _Run:
        """A run and everything that was looked at beside it."""
        seen = self.observed()
        before = [{name: tensor.clone() for name, tensor in _tensors(one.view).items()} for one in seen]
        found: list[Finding] = []
        disturbance = None
        try:
            with undisturbed("the attack"):
                found = self.run(seen)
        except DisturbedError as error:
            disturbance = str(error)
        return _Run(seen, before, found, disturbance, list(self.fractions))


@dataclass(frozen=True)
class _Run:
    seen: list[Observation]
    before: list[dict[str, Tensor]]
    found: list[Finding]
    disturbance: str | None
    fractions: list[float]


def _checks(where: str, subject: _Subject) -> Iterator[Check]:
    runs: list[_Run] = []
    first = tried(f"{where}: it runs with the knowledge it declares", lambda: runs.append(subject.first_run()))
    yield first
    for run in runs:
        yield tried(f"{where}: its findings answer its goals, in the right shapes", partial(_scored, subject, run))
        yield tried(f"{where}: it leaves the view as it is", partial(_untouched, run))
        yield Check(f"{where}: it moves no global random stream or setting", run.disturbance)
        yield tried(f"{where}: equal views give equal findings", partial(_deterministic, subject, run))
        yield tried(f"{where}: every tensor it makes is made on the view's device", partial(_on_device, subject))
        yield tried(f"{where}: it says how far it is", partial(_progress, run))


def _scored(subject: _Subject, run: _Run) -> None:
    for cell, victim, seen, finding in zip(subject.cells, subject.victims, run.seen, run.found, strict=True):
        score_finding(cell, victim, ground.digits(), seen, finding)
        lengths = {name: len(series) for name, series in finding.trace.items()}
        if len(set(lengths.values())) > 1:
            raise BrokenContractError(
                f"the trace has series of different lengths ({lengths}); give each as many entries"
            )
        taken = 0 if finding.reconstructions is None else len(finding.reconstructions)
        if finding.checkpoints and len(finding.checkpoints) != taken:
            raise BrokenContractError(
                f"there are {len(finding.checkpoints)} checkpoints and {taken} reconstructions; give the step of each"
            )


def _untouched(run: _Run) -> None:
    for one, before in zip(run.seen, run.before, strict=True):
        for name, tensor in _tensors(one.view).items():
            if not torch.equal(tensor, before[name]):
                raise BrokenContractError(f"the attack writes into the view's {name}; clone it first")


def _tensors(view: ServerView) -> dict[str, Tensor]:
    held = {field.name: getattr(view, field.name) for field in fields(view) if not field.name.startswith("_")}
    named = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    return named | {f"body's {name}": value.detach() for name, value in view.body.state_dict().items()}


def _deterministic(subject: _Subject, run: _Run) -> None:
    for one, other in zip(run.found, subject.run(subject.observed()), strict=True):
        pairs = {
            "reconstructions": (one.reconstructions, other.reconstructions),
            "labels": (one.labels, other.labels),
            "clone": (_flat(one.clone), _flat(other.clone)),
        }
        for name, (a, b) in pairs.items():
            if a is not None and (b is None or not torch.equal(a, b)):
                raise BrokenContractError(
                    f"{name} differ between runs on equal views; draw everything from view.rng(...)"
                )


def _flat(module: nn.Module | None) -> Tensor | None:
    if module is None:
        return None
    return torch.cat(
        [torch.zeros(0, device="cpu"), *(value.detach().flatten().float() for value in module.state_dict().values())]
    )


def _on_device(subject: _Subject) -> None:
    # Every tensor made without device= lands on the default device; one that holds no numbers shows it on any machine.
    seen = subject.observed()
    try:
        with torch.device("meta"):
            found = subject.run(seen)
    except (RuntimeError, NotImplementedError) as error:
        if "meta" in str(error):
            raise BrokenContractError(_NO_DEVICE) from error
        raise
    for finding in found:
        for result in (finding.reconstructions, finding.labels, _flat(finding.clone)):
            if result is not None and result.device.type == "meta":
                raise BrokenContractError(_NO_DEVICE)


def _progress(run: _Run) -> None:
    if not run.fractions:
        raise BrokenContractError("it never calls progress; call progress(done / all) now and then, or it looks dead")
    if not all(0 <= fraction <= 1 + 1e-9 for fraction in run.fractions):
        raise BrokenContractError(f"progress({max(run.fractions, key=abs)}) is outside 0 .. 1; give the done fraction")
