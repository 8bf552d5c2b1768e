"""Turns a finding into a record: metrics against the truth, controls beside them, utility and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmark.cell import canonical_json
from benchmark.data import Dataset, majority_share, targets_digest
from benchmark.errors import PluginError
from benchmark.finite import all_finite
from benchmark.image_scoring import Targets, score_reconstructions
from benchmark.label_scoring import score_labels, without_gradient
from benchmark.metrics.stealing import random_clone_scores, smashed_by, steal_scores
from benchmark.metrics.utility import head_flops, parameter_count, smashed_bytes, wire_bytes
from benchmark.once import once, once_for_data, undefended_predictions, victim_accuracy
from benchmark.record import Record
from benchmark.seeds import Rng

if TYPE_CHECKING:
    from attacks.base import Finding
    from benchmark.cell import Cell
    from benchmark.data import Part
    from benchmark.metrics.recognition import Recogniser
    from benchmark.observe import Observation
    from benchmark.victim import Victim
    from benchmark.view import ServerView
    from defenses.base import PrivacyStatement

CONVERGED_FALL = 0.01
CONVERGED_RESIDUAL = 1.2
RANDOM_CLONES = 5
# What random heads make of the test part is remembered up to here, for all victims of one architecture.
KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Scores:
    """The parts of a record that scoring fills; fields as in `benchmark.record.Record`."""

    per_image: dict[str, list[float]]
    controls: dict[str, dict[str, list[float]]]
    scalars: dict[str, float]
    convergence: dict[str, Any]


def score_finding(
    cell: Cell,
    victim: Victim,
    dataset: Dataset,
    observation: Observation,
    finding: Finding,
    recogniser: Recogniser | None = None,
    undefended: Victim | None = None,
) -> Scores:
    """Score one finding for every goal its attack declares.

    Args:
        cell: What was attacked, and how.
        victim: Whom.
        dataset: Whose data.
        observation: What the attack saw, and the truth.
        finding: What it found.
        recogniser: The data set's independent classifier; without, recognition is left out.
        undefended: The victim without defenses at the same seed and cut, for the control of labels; None where `victim`
            has none itself.

    Raises:
        PluginError: The finding lacks what a declared goal needs, or has another shape, or is not finite.
    """
    per_image: dict[str, list[float]] = {}
    controls: dict[str, dict[str, list[float]]] = {}
    scalars: dict[str, float] = {}
    checkpoint: int | None = None
    truth = observation.truth
    for goal in cell.goals:
        if goal == "reconstruct":
            images = _demanded(cell, "reconstructions", finding.reconstructions, (None, *truth.images.shape))
            targets = Targets.of(dataset, cell.phase, cell.targets.text(), truth)
            checkpoint, found, beside = score_reconstructions(images, targets, recogniser)
            per_image |= found
            controls |= {name: dict(metrics) for name, metrics in beside.controls.items()}
            scalars |= beside.scalars
        elif goal == "infer_labels":
            labels = _demanded(cell, "labels", finding.labels, truth.labels.shape)
            known = _without_gradient(cell, victim, dataset, observation, undefended)
            correct, without, accuracies = score_labels(labels, truth.labels, dataset.n_classes, known)
            per_image |= correct
            controls |= without
            scalars |= accuracies
        elif goal == "steal":
            if finding.clone is None:
                raise PluginError(f"attack {cell.attack.name}: goal steal is declared, but the finding has no clone")
            scalars |= steal_scores(finding.clone, victim.split, *_tested(victim, dataset))
            controls["random_clone"] = _random_clone(cell, victim, dataset, observation.view)
    return Scores(per_image, controls, scalars, _convergence(victim, dataset, observation, finding, checkpoint))


def assemble(
    cell: Cell,
    victim: Victim,
    dataset: Dataset,
    observation: Observation,
    scores: Scores,
    *,
    suite: str,
    suite_digest: str,
    undefended: Victim,
    evidence: Mapping[str, Any],
    run: Mapping[str, Any],
) -> Record:
    """The record of a finished cell."""
    truth = observation.truth
    return Record(
        key=cell.key(),
        suite=suite,
        suite_digest=suite_digest,
        axes=cell.axes(),
        status="done",
        targets={
            "ids": truth.ids.tolist(),
            "labels": truth.labels.tolist(),
            "digest": targets_digest(truth),
            "dataset_digest": dataset.digest,
            "image_shape": list(dataset.image_shape),
            "n_classes": dataset.n_classes,
            "note": dataset.note,
        },
        per_image=scores.per_image,
        controls=scores.controls,
        scalars=scores.scalars,
        utility=utility(victim, undefended, dataset),
        privacy=[_claim(statement) for statement in victim.protection.privacy()],
        reached=victim.protection.reached(),
        evidence=dict(evidence),
        cost=cost(victim, undefended, dataset),
        convergence=scores.convergence,
        run=dict(run),
    )


def utility(victim: Victim, undefended: Victim, dataset: Dataset) -> dict[str, float]:
    """What the defended network is worth, each in [0, 1].

    Returns:
        `accuracy`: share of right labels on the test part with the defense on. `undefended_accuracy`: without any
        defense, at the same seed. `majority`: of always naming the test part's commonest class. For a trained victim
        also `auxiliary_accuracy`: with the defense on, on the auxiliary part, which it neither trained on nor is
        attacked on; far under `accuracy`, the network knows the test part by heart.
    """
    scores = {
        "accuracy": victim_accuracy(victim, dataset, "test"),
        "undefended_accuracy": victim_accuracy(undefended, dataset, "test"),
        "majority": majority_share(dataset.test.labels),
    }
    return scores | (
        {"auxiliary_accuracy": victim_accuracy(victim, dataset, "auxiliary")} if victim.spec.epochs else {}
    )


def cost(victim: Victim, undefended: Victim, dataset: Dataset) -> dict[str, float]:
    """What the defense costs the client: wire bytes a sample and step, FLOPs, parameters, and training time."""
    up, down = _wire_bytes(victim, dataset)
    flops = once(victim, dataset, ("head flops",), lambda: head_flops(victim.split.head, dataset.image_shape))
    return {
        "bytes_up": float(up),
        "bytes_down": float(down),
        "bytes_ratio": (up + down) / sum(_wire_bytes(undefended, dataset)),
        "client_flops": float(flops),
        "client_params": float(parameter_count(victim.split.head)),
        "training_seconds": victim.training_seconds,
        "time_ratio": victim.training_seconds / undefended.training_seconds if undefended.training_seconds else 1.0,
    }


def _wire_bytes(victim: Victim, dataset: Dataset) -> tuple[int, int]:
    return once(victim, dataset, ("wire bytes",), lambda: wire_bytes(victim.split, dataset.image_shape))


def _tested(victim: Victim, dataset: Dataset) -> tuple[Part, Tensor]:
    """The test part on the victim's device, and what the undefended victim predicts on it."""
    return dataset.test.to(victim.device), undefended_predictions(victim, dataset, "test")


def _without_gradient(
    cell: Cell, victim: Victim, dataset: Dataset, observation: Observation, undefended: Victim | None
) -> dict[str, float]:
    granted = 0 if observation.known is None else len(observation.known.labels)
    return once(
        victim,
        dataset,
        ("labels without gradient", cell.targets.text(), cell.phase, cell.views, granted),
        lambda: without_gradient(observation, victim, undefended, dataset),
    )


def _random_clone(cell: Cell, victim: Victim, dataset: Dataset, view: ServerView) -> dict[str, list[float]]:
    test, predictions = _tested(victim, dataset)
    what = ("random clone", cell.targets.text(), cell.phase, cell.assumed.name if cell.assumed else "")

    def heads() -> list[nn.Module]:
        # Named by the data alone, so that every attack on the same targets meets the same heads (of one architecture).
        rng = Rng("controls", dataset.digest, cell.targets.text(), cell.phase)
        return [view.new_head(rng.child("random clone", index)) for index in range(RANDOM_CLONES)]

    def given() -> list[list[Tensor]]:
        return [list(smashed_by(head, test)) for head in heads()]

    def measure() -> dict[str, float]:
        size = RANDOM_CLONES * len(test) * smashed_bytes(victim.split.head, dataset.image_shape)
        if size > KEPT_BYTES:
            return random_clone_scores([smashed_by(head, test) for head in heads()], victim.split, test, predictions)
        architecture = canonical_json((cell.assumed or victim.spec.model).identity())
        kept = once_for_data(dataset, (*what, architecture, view.cut, str(victim.device)), given)
        return random_clone_scores(kept, victim.split, test, predictions)

    return {key: [value] for key, value in once(victim, dataset, what, measure).items()}


def _claim(statement: PrivacyStatement) -> dict[str, Any]:
    # JSON knows no infinity.
    claim = asdict(statement)
    return claim | {"epsilon": "inf"} if statement.epsilon == math.inf else claim


def _demanded(cell: Cell, what: str, tensor: Tensor | None, shape: Sequence[int | None]) -> Tensor:
    where = f"attack {cell.attack.name}: finding.{what}"
    if tensor is None:
        raise PluginError(f"{where} is missing, but a goal that needs it is declared")
    if len(tensor.shape) != len(shape) or any(w not in (None, g) for w, g in zip(shape, tensor.shape, strict=True)):
        wanted = ", ".join("checkpoints" if size is None else str(size) for size in shape)
        raise PluginError(f"{where} has shape {tuple(tensor.shape)}; it must be ({wanted})")
    if tensor.is_floating_point() and not all_finite(tensor):
        raise PluginError(f"{where} holds NaN or infinity; return finite numbers")
    return tensor.detach()


def _convergence(
    victim: Victim, dataset: Dataset, observation: Observation, finding: Finding, checkpoint: int | None
) -> dict[str, Any]:
    trace = {name: [float(value) for value in values] for name, values in finding.trace.items()}
    shown = (observation.view.phase, tuple(observation.truth.ids.tolist()), len(observation.sent))
    residual = once(victim, dataset, ("truth residual", *shown), lambda: _truth_residual(victim, observation))
    return {
        "trace": trace,
        "steps": finding.steps,
        "saved_steps": finding.saved_steps,
        "checkpoints": list(finding.checkpoints),
        "checkpoint": checkpoint,
        "truth_residual": residual,
        "converged": _converged(trace, residual, finding.steps),
    }


def _converged(trace: Mapping[str, Sequence[float]], residual: float, steps: int) -> bool:
    """Whether an optimisation came to rest; a closed form has, and steps without a trace have not shown it.

    `loss` is a distance in feature space and may stop at the truth's own; `training_loss` can only come to rest.
    """
    loss = trace.get("loss") or trace.get("training_loss")
    if not loss or len(loss) < 2:
        return not steps
    if trace.get("loss") and loss[-1] <= CONVERGED_RESIDUAL * residual:
        return True
    earlier = loss[max(0, len(loss) - 1 - max(1, len(loss) // 10))]
    # A loss that rises by more is not at rest either.
    return earlier <= 0 or abs(earlier - loss[-1]) < CONVERGED_FALL * earlier


def _truth_residual(victim: Victim, observation: Observation) -> float:
    """Mean squared noise in the mean of what was sent: what a perfect reconstruction could not explain.

    Half the squared difference of two fresh draws is their variance, whatever a defense does that is not random: a
    gain, a sign or a clip must not make an attack look finished.
    """
    x, k = observation.truth.images, len(observation.sent)
    first, second = (victim.smash(x, victim.protection.restarted("residual", draw)) for draw in range(2))
    return float((first - second).square().mean()) / (2 * k)
