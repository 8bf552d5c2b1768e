"""How well a cloned head replaces the client's own, in front of the server's true body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from benchmark.errors import PluginError, UserError
from benchmark.finite import all_finite
from benchmark.metrics.evaluating import evaluating_fast
from benchmark.metrics.utility import BATCH, predicted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmark.data import Part
    from benchmark.models import Split


def steal_scores(clone: nn.Module, split: Split, part: Part, predictions: Tensor | None = None) -> dict[str, float]:
    """Score a cloned head in front of the true body (and the true tail in the u-shaped topology).

    UnSplit's published code (Erdogan, Kupcu and Cicek, 2022) puts the client's true head in front of the clone's
    untrained layers instead, which says nothing about the clone.

    Args:
        clone: The cloned head: images [n, channels, height, width] to smashed data of the client's shape.
        split: The victim, on the clone's device.
        part: Held-out images and labels.
        predictions: What `victim_predictions` gives for the part, where it is known.

    Returns:
        `steal_accuracy`: share of right labels of the clone in front of the true rest, in [0, 1].
        `steal_agreement`: share of images where it predicts what the undefended victim predicts, in [0, 1].
        `victim_accuracy`: share of right labels of the undefended victim on the same images, in [0, 1].

    Raises:
        PluginError: The clone's smashed data have another shape than the client's, or are not finite.
        UserError: The part is empty.
    """
    true = victim_predictions(split, part) if predictions is None else predictions
    return _scores(smashed_by(clone, part), split, part, true)


def smashed_by(head: nn.Module, part: Part) -> Iterator[Tensor]:
    """What a head gives for a part, `BATCH` images at a time: [n, ...] each, without a graph."""
    for x in torch.split(part.images, BATCH):
        with evaluating_fast(head), torch.no_grad():
            smashed: Tensor = head(x)
        # A body that somebody wrote may count on the usual layout.
        yield smashed.contiguous()


def victim_predictions(split: Split, part: Part) -> Tensor:
    """Labels that the undefended victim predicts for a part, [n], int64."""
    with evaluating_fast(*split.parts().values()):
        return predicted(split.evaluate, part.images)


def random_clone_scores(
    heads: Sequence[Iterable[Tensor]], split: Split, part: Part, predictions: Tensor | None = None
) -> dict[str, float]:
    """The control: what heads score that never saw anything, freshly initialised, on average.

    Args:
        heads: What fresh heads of the client's architecture give for the part, `smashed_by` each; at least one, about
            five, because single ones score anything from under chance to several times chance.
        split, part, predictions: As in `steal_scores`.

    Returns:
        What `steal_scores` gives, each the mean over the heads.

    Raises:
        UserError: There is no head, or as `steal_scores`.
    """
    if not heads:
        raise UserError("the random-clone control needs at least one fresh head; give it some")
    known = victim_predictions(split, part) if predictions is None else predictions
    scored = [_scores(smashed, split, part, known) for smashed in heads]
    return {key: sum(scores[key] for scores in scored) / len(scored) for key in scored[0]}


def steal_advantage(accuracy: float, random: float, victim: float) -> float | None:
    """How much of the way from a random clone to the client's own head a clone went, in [0, 1].

    (accuracy - random) / (victim - random), cut at 0 and at 1.

    Args:
        accuracy: Accuracy of the clone in front of the true body, or its mean.
        random: The same of random clones.
        victim: Accuracy of the victim.

    Returns:
        The advantage, or None where the victim is no better than a random clone: there is nothing to steal then,
        and neither 0 (safe) nor 1 (stolen) would be true.
    """
    if not victim > random:
        return None
    return min(1.0, max(0.0, (accuracy - random) / (victim - random)))


def _scores(smashed: Iterable[Tensor], split: Split, part: Part, true: Tensor) -> dict[str, float]:
    if len(part) == 0:
        raise UserError("stealing cannot be scored on an empty part; give the data set some test images")
    found = []
    with evaluating_fast(*split.parts().values()), torch.no_grad():
        sent = tuple(split.head(part.images[:1]).shape[1:])
        for given, x in zip(smashed, torch.split(part.images, BATCH), strict=True):
            _check(given, (len(x), *sent))
            found.append(predicted(split.behind_head, given, BATCH))
    stolen, labels = torch.cat(found), part.labels.to(true.device)
    return {
        "steal_accuracy": _share(stolen == labels),
        "steal_agreement": _share(stolen == true),
        "victim_accuracy": _share(true == labels),
    }


def _check(smashed: Tensor, sent: tuple[int, ...]) -> None:
    if tuple(smashed.shape) != sent:
        raise PluginError(
            f"the attack's clone returned smashed data of shape {tuple(smashed.shape)} for {sent[0]} images, the "
            f"client sends {sent}; return a head of the client's architecture"
        )
    if not all_finite(smashed):
        raise PluginError("the attack's clone returned NaN or infinity; return a head with finite weights")


def _share(right: Tensor) -> float:
    return float(right.double().mean())
