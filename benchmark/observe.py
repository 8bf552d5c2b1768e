"""Builds the view an attack receives, and keeps the truth it is scored against."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark import registry
from benchmark.data import Dataset, Part, choose_targets
from benchmark.errors import UserError
from benchmark.order import blind_order
from benchmark.training_view import TrainingView
from benchmark.view import Knowledge, KnownLabels, Phase, Secrets, ServerView

if TYPE_CHECKING:
    from attacks.base import Attack
    from benchmark.cell import Cell
    from benchmark.protection import Protection
    from benchmark.victim import Victim


@dataclass(frozen=True)
class Observation:
    """What the server saw of a cell's targets, and what the harness knows of them.

    Attributes:
        view: For the attack.
        truth: The targets: images, labels, ids.
        known: What an attacker with known labels is granted, or None; kept for the control that uses them
            without gradients.
        known_images: [m, channels, height, width] of those samples, or None; no attacker has them.
        sent: [k, n, ...] the smashed data, the harness's own copy.
        body_outputs: [k, n, ...] in the u-shaped topology, the harness's own copy, or None.
    """

    view: ServerView
    truth: Part
    known: KnownLabels | None
    sent: Tensor
    body_outputs: Tensor | None
    known_images: Tensor | None = None


def target_positions(cell: Cell, dataset: Dataset) -> Tensor:
    """Positions of the cell's targets, in the order in which they are shown and scored; int64, on the CPU.

    In the data set's victim part for the phase `training`, where Poisson sampling may later leave some out, else in its
    test part.

    Raises:
        UserError: The rule asks for more than there is.
    """
    if cell.phase == "inference":
        return _inference_positions(cell, dataset)
    watch = cell.victim.watch
    part = dataset.victim
    watched = choose_targets(part, watch.rule) if watch else torch.arange(len(part), device="cpu")
    return _training_positions(cell, dataset, watched)


def observe(cell: Cell, victim: Victim, dataset: Dataset, attack: Attack) -> Observation:
    """What the server saw of the cell's targets.

    Every attack on a victim gets the same observations: the defense's noise has a stream of its own.

    Args:
        cell: Which targets, phase and number of views.
        victim: On the device the view shall be on.
        dataset: Holds the targets.
        attack: Whose declared knowledge is granted.
    """
    device = victim.device
    if cell.phase == "training":
        seen, known, known_images = _training_rows(cell, victim, dataset, attack)
        truth = dataset.victim.select(seen.positions.cpu()).to(device)
        sent, outputs, gradients = seen.smashed, seen.body_outputs, seen.cut_gradients
        weights: dict[str, Tensor] | None = _in_tail_order(seen, victim)
        batch_sizes: Tensor | None = seen.batch_sizes
        summed = bool(seen.summed)
    else:
        truth = dataset.test.select(_inference_positions(cell, dataset)).to(device)
        protection = victim.protection.restarted("inference")
        sent = torch.stack([victim.smash(truth.images, protection) for _ in range(cell.views)])
        outputs = _through_body(victim, sent) if victim.split.tail is not None else None
        gradients = known = known_images = weights = batch_sizes = None
        summed = False

    granted = attack.knowledge()
    view = ServerView(
        smashed=sent.clone(),
        phase=cell.phase,
        topology=victim.spec.topology,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        cut=victim.split.cut,
        tail_name=victim.split.tail_name,
        body=copy.deepcopy(victim.split.body),
        body_outputs=_cloned(outputs),
        cut_gradients=_cloned(gradients),
        labels=truth.labels.clone() if victim.spec.topology == "vanilla" and cell.phase == "training" else None,
        _factory=registry.load_model(cell.assumed or victim.spec.model),
        _granted=granted,
        _secrets=Secrets(
            client_head=copy.deepcopy(victim.split.head) if Knowledge.CLIENT_WEIGHTS in granted else None,
            auxiliary=_copied(dataset.auxiliary, device) if Knowledge.AUXILIARY in granted else None,
            query=_query(victim, cell.attack_seed, cell.phase) if Knowledge.QUERY in granted else None,
            known_labels=copy.deepcopy(known) if Knowledge.KNOWN_LABELS in granted else None,
            weight_gradients=weights if Knowledge.WEIGHT_GRADIENTS in granted else None,
            protection=_attackers_own(victim, cell.attack_seed) if Knowledge.DEFENSE in granted else None,
        ),
        _attack_seed=cell.attack_seed,
        loss_reduction="sum" if summed else "mean",
        batch_sizes=_cloned(batch_sizes),
    )
    return Observation(view, truth, known, sent, outputs, known_images)


def _inference_positions(cell: Cell, dataset: Dataset) -> Tensor:
    return _shown(choose_targets(dataset.test, cell.targets), cell, dataset, len(dataset.test))


def _training_positions(cell: Cell, dataset: Dataset, watched: Tensor) -> Tensor:
    watch = cell.victim.watch
    # All that were watched; Poisson sampling may have drawn some of them never.
    if watch is None or cell.targets != watch.rule:
        watched = watched[choose_targets(dataset.victim.select(watched), cell.targets)]
    return _shown(watched, cell, dataset, len(dataset.victim))


def _shown(positions: Tensor, cell: Cell, dataset: Dataset, n: int) -> Tensor:
    return blind_order(positions, n, dataset.digest, cell.targets.text(), cell.phase)


def _in_tail_order(seen: TrainingView, victim: Victim) -> dict[str, Tensor]:
    # Files sort names; an attack that reads the last layer's gradient counts on the order of the layers.
    names = [] if victim.split.tail is None else [name for name, _ in victim.split.tail.named_parameters()]
    return {name: seen.weight_gradients[name] for name in names if name in seen.weight_gradients}


def _copied(part: Part, device: torch.device) -> Part:
    return Part(part.images.to(device, copy=True), part.labels.to(device, copy=True), part.ids.to(device, copy=True))


def _attackers_own(victim: Victim, attack_seed: int) -> Protection:
    # Copies: what an attack does with a defense must not reach the one that is scored.
    return copy.deepcopy(victim.protection).restarted("attacker", attack_seed)


def _cloned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _through_body(victim: Victim, sent: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([victim.split.body(z) for z in sent])


def _query(victim: Victim, attack_seed: int, phase: Phase) -> Callable[[Tensor], Tensor]:
    # A copy: training hooks may learn from what passes through them, and what the victim learned must not move.
    protection = copy.deepcopy(victim.protection).restarted("queries", attack_seed)
    return lambda x: victim.smash(x, protection, phase)


def _training_rows(
    cell: Cell, victim: Victim, dataset: Dataset, attack: Attack
) -> tuple[TrainingView, KnownLabels | None, Tensor | None]:
    seen = victim.seen
    if seen is None:
        raise UserError(
            f"attack {cell.attack.name}: phase training needs a suite with a watch; add the key watch to the suite"
        )
    watched = seen.positions[~seen.is_known]
    chosen = _training_positions(cell, dataset, watched.cpu()).to(watched.device)
    seen = seen.latest(cell.views)
    targets, wanted = seen.rows(_where(seen.positions, chosen)), attack.known_labels_per_class()
    if not wanted:
        return targets, None, None
    known = _known(seen, cell, dataset, wanted)
    part = dataset.victim.select(known.positions.cpu()).to(victim.device)
    return targets, KnownLabels(known.smashed, known.body_outputs, known.cut_gradients, part.labels), part.images


def _where(positions: Tensor, wanted: Tensor) -> Tensor:
    """Index into `positions` of each of `wanted`."""
    return (positions == wanted[:, None]).nonzero()[:, 1]


def _known(seen: TrainingView, cell: Cell, dataset: Dataset, wanted: int) -> TrainingView:
    labels = dataset.victim.labels.to(seen.positions.device)[seen.positions]
    rows = []
    for label in range(dataset.n_classes):
        free = (seen.is_known & (labels == label)).nonzero().flatten()
        if len(free) < wanted:
            raise UserError(
                f"attack {cell.attack.name}: wants {wanted} known labels a class, but only {len(free)} of class "
                f"{dataset.class_names[label]!r} were watched; raise watch.known_per_class in the suite"
            )
        rows.append(free[:wanted])
    positions = seen.positions[torch.cat(rows)]
    shown = blind_order(positions, len(dataset.victim), dataset.digest, "known", cell.phase)
    return seen.rows(_where(seen.positions, shown))
