"""Trains or loads a victim: one split network under its defenses, and what the server saw of its training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.data import Dataset, choose_targets
from benchmark.errors import UserError
from benchmark.models import Split, cuts, network, split
from benchmark.protection import Protection
from benchmark.protocol import Step, Training, Wire, batches, split_step
from benchmark.seeds import Rng, isolated
from benchmark.tensors import BrokenFileError, load_tensors, save_tensors
from benchmark.training_view import TrainingView, TrainingWatcher

if TYPE_CHECKING:
    from benchmark.cell import VictimSpec, Watch
    from benchmark.view import Phase

Report = Callable[[float], None]


@dataclass(frozen=True)
class Victim:
    """A trained split network with its defenses.

    Attributes:
        spec: What it is.
        split: Head, body and tail, frozen, in evaluation mode, without anything a defense wrapped around them.
        protection: The defenses with what they learned; use `restarted` for fresh streams.
        device: Where its parts are.
        training_seconds: Wall time of its training.
        seen: What the server saw of the watched samples while it trained, or None.
    """

    spec: VictimSpec
    split: Split
    protection: Protection
    device: torch.device
    training_seconds: float
    seen: TrainingView | None = None

    def smash(self, x: Tensor, protection: Protection, phase: Phase = "inference") -> Tensor:
        """What leaves the client for images `x`: the head's output under the defenses as they act in `phase`.

        The head is the trained one in evaluation mode in either phase. A defense may learn in its training hooks: give
        `training` only with a copy of the protection.
        """
        with torch.no_grad():
            # A hook that somebody wrote may count on the usual layout.
            return protection.activations(self.split.head(protection.inputs(x, phase)).contiguous(), phase)

    def predict(self, x: Tensor, protection: Protection) -> Tensor:
        """Logits for images `x` at inference, defenses on."""
        with torch.no_grad():
            logits: Tensor = self.split.body(self.smash(x, protection))
            return logits if self.split.tail is None else self.split.tail(logits)


def obtain_victim(
    spec: VictimSpec,
    dataset: Dataset,
    cache: Path,
    device: torch.device,
    report: Report = lambda _: None,
) -> Victim:
    """The victim, from the cache where it is whole, otherwise trained and cached.

    Without a defense that takes part in training, the weights are those of one undefended training shared by all cuts
    and topologies; what the server sees is recorded from a training at the victim's own cut, or from one pass after it
    (`benchmark.cell.Watch.batch_size`).

    Args:
        spec: What to train.
        dataset: Its data.
        cache: Folder of the cached tensors.
        device: Where to train and where the result is.
        report: Called with the done fraction of the training.
    """
    shared = not spec.defended_training
    stored = _load(cache / f"{spec.weights_key()}.safetensors")
    if stored is None:
        trained = _train(_canonical(spec, dataset) if shared else spec, dataset, device, report)
        stored = trained.tensors, trained.metadata
        save_tensors(cache / f"{spec.weights_key()}.safetensors", *stored)
    tensors, metadata = stored
    seen = _obtain_seen(spec, dataset, cache, device, tensors) if spec.watch else None

    protection, parts = _untrained(spec, dataset, device)
    _restore(parts, protection, tensors, device)
    for part in parts.parts().values():
        part.eval().requires_grad_(False)
    return Victim(spec, parts, protection, device, float(metadata["seconds"]), seen)


@dataclass(frozen=True)
class _Trained:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def _canonical(spec: VictimSpec, dataset: Dataset) -> VictimSpec:
    """The undefended training every cut and topology shares: vanilla, cut after the first module."""
    factory = registry.load_model(spec.model)
    first = next(iter(cuts(network(factory, dataset.image_shape, dataset.n_classes, Rng("names")))))
    return replace(spec, topology="vanilla", cut=first, cut_reached=first, tail=None, defenses=(), watch=None)


def _obtain_seen(
    spec: VictimSpec, dataset: Dataset, cache: Path, device: torch.device, tensors: dict[str, Tensor]
) -> TrainingView:
    path = cache / f"{spec.key()}.seen.safetensors"
    stored = _load(path)
    if stored is None:
        # A defended victim's own training recorded it; a shared one is trained once more at this cut.
        recorded = {name: value for name, value in tensors.items() if name.startswith("seen/")}
        if spec.watch and spec.watch.batch_size:
            recorded = _frozen_pass(spec, dataset, device, tensors, spec.watch.batch_size)
        elif not recorded:
            recorded = {n: v for n, v in _train(spec, dataset, device).tensors.items() if n.startswith("seen/")}
        save_tensors(path, recorded, {})
        stored = recorded, {}
    return TrainingView.from_tensors({n.removeprefix("seen/"): v.to(device) for n, v in stored[0].items()})


def _root(spec: VictimSpec) -> Rng:
    # Without the defense, cut and topology: victims that differ only there share initialisation and batches.
    return Rng("victim", spec.dataset, spec.dataset_digest, spec.model.name, spec.seed)


def _untrained(spec: VictimSpec, dataset: Dataset, device: torch.device) -> tuple[Protection, Split]:
    root = _root(spec)
    factory = registry.load_model(spec.model)
    whole = network(factory, dataset.image_shape, dataset.n_classes, root.child("initial weights"))
    protection = Protection([registry.load_defense(ref) for ref in spec.defenses], root.child("noise"))
    parts = split(whole, spec.cut_reached, spec.tail)
    return protection, protection.prepare(parts.to(device), dataset.victim.to(device))


def _frozen_pass(
    spec: VictimSpec, dataset: Dataset, device: torch.device, tensors: dict[str, Tensor], batch_size: int
) -> dict[str, Tensor]:
    """What the server sees of the watched samples in one pass that updates nothing, as named tensors."""
    assert spec.watch is not None  # asked for by the watch
    protection, parts = _untrained(spec, dataset, device)
    if protection.defenses:
        raise UserError("suite: key watch.batch_size watches undefended victims only; leave it out or the defenses")
    _restore(parts, protection, tensors, device)
    for part in parts.parts().values():
        part.train()
    training = Training(
        head=parts.head,
        body=parts.body,
        tail=parts.tail,
        # No step moves anything; the optimisers clear the gradients.
        optimisers={n: torch.optim.SGD(p.parameters(), lr=0.0) for n, p in parts.parts().items() if _learns(p)},
        n_records=len(dataset.victim),
        batch_size=batch_size,
        epochs=1,
        rng=_root(spec).child("frozen pass"),
    )
    targets, known = _watched(spec.watch, dataset)
    watcher = TrainingWatcher(targets, known, training.reduction)
    watched = torch.zeros(len(dataset.victim), dtype=torch.bool, device="cpu")
    watched[torch.cat([targets, known])] = True
    wire = Wire(watcher.receive)
    for number, ids in enumerate(batches(training, training.rng.child("batches", batch_size))):
        if not bool(watched[ids].any()):
            continue
        at = ids.to(device)
        with isolated(training.rng.child("modules", number)):
            split_step(
                training, protection, Step(dataset.victim.images[at], dataset.victim.labels[at], ids, 0, number), wire
            )
        if training.tail is not None:
            watcher.disclose(training.tail, ids, 0)
    return {f"seen/{name}": value.contiguous() for name, value in watcher.view().to_tensors().items()}


def _train(spec: VictimSpec, dataset: Dataset, device: torch.device, report: Report = lambda _: None) -> _Trained:
    started = time.perf_counter()
    protection, parts = _untrained(spec, dataset, device)
    root = _root(spec)
    data = dataset.victim.to(device)
    labels = protection.labels(data.labels, dataset.n_classes)
    training = protection.privatise(_training(spec, parts, len(data), root.child("privatise")))
    watcher = _watcher(spec, dataset, training)
    wire = Wire(watcher.receive if watcher else None)
    order, number = root.child("batches"), 0
    for part in training.parts().values():
        part.train()
    for epoch in range(spec.epochs):
        for ids in batches(training, order):
            at = ids.to(device)
            # Modules that draw (dropout) draw from the global stream: it must not depend on what ran before.
            with isolated(root.child("modules", number)):
                split_step(training, protection, Step(data.images[at], labels[at], ids, epoch, number), wire)
            number += 1
            if watcher and training.tail is not None:
                watcher.disclose(training.unwrap(training.tail), ids, epoch)
            report(number / (spec.epochs * training.steps_per_epoch))
    plain = Split(
        training.unwrap(training.head),
        training.unwrap(training.body),
        None if training.tail is None else training.unwrap(training.tail),
        parts.cut,
        parts.tail_name,
    )
    tensors = _weights(plain, shared=not spec.defended_training)
    for index, defense in enumerate(protection.defenses):
        tensors |= {f"defense/{index}/{key}": value.detach() for key, value in defense.state.items()}
    if watcher:
        tensors |= {f"seen/{key}": value for key, value in watcher.view().to_tensors().items()}
    seconds = time.perf_counter() - started
    cpu = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return _Trained(cpu, {"seconds": repr(seconds), "spec": json.dumps(asdict(spec), sort_keys=True)})


def _training(spec: VictimSpec, parts: Split, n_records: int, rng: Rng) -> Training:
    return Training(
        head=parts.head,
        body=parts.body,
        tail=parts.tail,
        optimisers={
            name: torch.optim.Adam(part.parameters(), lr=spec.learning_rate, amsgrad=True)
            for name, part in parts.parts().items()
            if _learns(part)
        },
        n_records=n_records,
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        rng=rng,
    )


def _learns(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def _watcher(spec: VictimSpec, dataset: Dataset, training: Training) -> TrainingWatcher | None:
    if spec.watch is None or spec.watch.batch_size is not None:
        return None
    if spec.epochs == 0:
        raise UserError(
            "suite: a training-phase attack needs a victim that trains; set training.epochs to 1 or more, "
            "watch one frozen pass (watch.batch_size), or use phase inference"
        )
    targets, known = _watched(spec.watch, dataset)
    return TrainingWatcher(targets, known, training.reduction)


def _watched(watch: Watch, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Positions in the victim part of the targets and of the samples whose labels may be known."""
    targets = choose_targets(dataset.victim, watch.rule)
    taken = torch.zeros(len(dataset.victim), dtype=torch.bool, device="cpu")
    taken[targets] = True
    known: list[Tensor] = []
    for label in range(dataset.n_classes):
        free = ((dataset.victim.labels.cpu() == label) & ~taken).nonzero().flatten()
        if len(free) < watch.known_per_class:
            raise UserError(
                f"suite: key watch.known_per_class={watch.known_per_class} leaves too few samples of class "
                f"{dataset.class_names[label]!r}; lower it or watch fewer targets"
            )
        known.append(free[: watch.known_per_class])
    return targets, torch.cat(known)


def _weights(parts: Split, *, shared: bool) -> dict[str, Tensor]:
    return {
        (f"weights/{name}" if shared else f"weights/{part}/{name}"): value
        for part, module in parts.parts().items()
        for name, value in module.state_dict().items()
    }


def _restore(parts: Split, protection: Protection, tensors: dict[str, Tensor], device: torch.device) -> None:
    shared = not any(name.startswith("weights/head/") for name in tensors)
    for part, module in parts.parts().items():
        prefix = "weights/" if shared else f"weights/{part}/"
        module.load_state_dict({name: tensors[prefix + name] for name in module.state_dict()})
    for index, defense in enumerate(protection.defenses):
        prefix = f"defense/{index}/"
        learned = {n.removeprefix(prefix): v.to(device) for n, v in tensors.items() if n.startswith(prefix)}
        defense.state.clear()
        defense.state.update(learned)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except BrokenFileError:
        # A cache is worth nothing but time: what is broken is made again.
        path.unlink(missing_ok=True)
        return None
