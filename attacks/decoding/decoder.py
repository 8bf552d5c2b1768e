"""Decoders that undo a client whose answers to known images can be had: linear in closed form, then convolutions.

The client is a black box here. It may be the defended client itself, asked, or a model of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.decoding.mending import LocalLinear, Mender
from attacks.decoding.reading import Reader
from benchmark.errors import UserError
from benchmark.finding import Finding
from benchmark.parts import Part
from benchmark.seeds import Rng
from benchmark.view import ServerView

FOLDS = 5
FEWEST_IMAGES = 50
# Ridge penalties tried, as shares of the mean squared feature summed over the images.
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Which penalty is best shows in so many random sums of pixels, at a fraction of the cost of all of them.
SUMS = 64
# Images that the error is measured on after each epoch.
MEASURED = 250


class Client(Protocol):
    """What answers to images that the attacker knows.

    Attributes:
        images: [n, channels, height, width].
        changes: Whether it answers the same question differently each time.
    """

    @property
    def images(self) -> Tensor: ...  # noqa: D102

    @property
    def changes(self) -> bool: ...  # noqa: D102

    def answers(self) -> Tensor:
        """What it sends of the images, [n, ...]; a new draw on every call where it changes."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long is trained.

    Attributes:
        draws: Answers to each image that the linear decoder is fitted to.
        epochs: Passes of the convolutions over the images.
        batch_size: Images a gradient step.
        learning_rate: Peak learning rate of Adam; warm-up, then cosine.
        width: Channels of the convolutions.
    """

    draws: int
    epochs: int
    batch_size: int
    learning_rate: float
    width: int

    def steps_per_epoch(self, n: int) -> int:
        """Gradient steps for n images."""
        return -(-n // self.batch_size)


@dataclass(frozen=True)
class Decoded:
    """What the decoders make of the targets.

    Attributes:
        coarse, fine: [targets, channels, height, width], the linear decoders' images and the mended ones.
        losses: Mean squared error per pixel after each epoch, over the first `MEASURED` images; where the client
            changes, with one answer that nothing was trained on and that stays the same.
    """

    coarse: Tensor
    fine: Tensor
    losses: list[float]


def decode(
    client: Client,
    targets: Tensor,
    schedule: Schedule,
    rng: Callable[[str], Rng],
    memory: int,
    progress: Callable[[float], None],
) -> Decoded:
    """Learn to undo a client, and decode what it sent.

    Args:
        client: Answers to known images.
        targets: [targets, ...], smashed data, distributed as the answers are.
        schedule: How long to learn.
        rng: The attacker's stream for a purpose.
        memory: Bytes the linear decoder's temporary tensors may take.
        progress: Called with the done fraction.
    """
    images = client.images
    source = _Source(client)
    reader = Reader.of(source.latest, (images.shape[2], images.shape[3]))
    dense = _fit_linear(source, reader, schedule.draws, rng("penalty"), memory)
    smashed = source.answers()
    local = LocalLinear.fit(dense.decode_unseen(reader.features(smashed)), reader.maps(smashed), images)
    coarse = local(dense.decode(reader.features(targets)), reader.maps(targets))

    def unseen() -> Tensor:
        smashed = source.answers()
        return local(dense.decode_unseen(reader.features(smashed)), reader.maps(smashed))

    mender = Mender(images.shape[1], schedule.width, rng("convolutions")).to(images.device)
    losses = _train(mender, source, unseen, schedule, rng("order"), progress)
    with torch.no_grad():
        return Decoded(coarse, mender(coarse), losses)


def finding(
    decoded: Decoded, schedule: Schedule, n: int, before: Sequence[float] = (1.0,), steps_before: int = 0
) -> Finding:
    """What was decoded after training on n images; checkpoints before and after the convolutions.

    Args:
        decoded: What the decoders made of the targets.
        schedule: How long they were trained.
        n: Images they were trained on.
        before: Losses of what was trained before them, at equally spaced moments; the trace's loss is the product of
            the two at the same share of either training.
        steps_before: Gradient steps of what was trained before them.
    """
    steps = schedule.steps_per_epoch(n)
    epochs = range(schedule.epochs)
    earlier = [before[-(-len(before) * (epoch + 1) // schedule.epochs) - 1] for epoch in epochs]
    last = steps_before + schedule.epochs * steps
    return Finding(
        reconstructions=torch.stack([decoded.coarse, decoded.fine]),
        trace={
            "step": [float(steps_before + steps * (epoch + 1)) for epoch in epochs],
            "training_loss": [loss * other for loss, other in zip(decoded.losses, earlier, strict=True)],
        },
        steps=last,
        checkpoints=(steps_before, last),
    )


def auxiliary(view: ServerView, most: int, attack: str) -> Part:
    """At most `most` auxiliary images of a view in random order, on its device.

    Raises:
        UserError: There are too few to learn anything from.
    """
    part = view.auxiliary
    if len(part) < FEWEST_IMAGES:
        raise UserError(
            f"attack {attack}: the data set's auxiliary part has {len(part)} images; give it at least {FEWEST_IMAGES}"
        )
    chosen = view.rng("auxiliary").permutation(len(part))[:most]
    return part.select(chosen.to(part.images.device)).to(view.device)


class _Source:
    """The client's answers; asked anew only where that gives something new."""

    def __init__(self, client: Client) -> None:
        self.images, self.changes = client.images, client.changes
        self._client = client
        self.latest = client.answers()

    def answers(self) -> Tensor:
        if self.changes:
            self.latest = self._client.answers()
        return self.latest


def _train(
    mender: Mender,
    source: _Source,
    unseen: Callable[[], Tensor],
    schedule: Schedule,
    rng: Rng,
    progress: Callable[[float], None],
) -> list[float]:
    """Train the convolutions on what linear decoders make of images they were not fitted to; the errors, by epoch."""
    images = source.images
    # Fused, because it keeps its state on the weights' device whatever the default device is.
    optimiser = torch.optim.Adam(mender.parameters(), lr=schedule.learning_rate, fused=True)
    steps = schedule.epochs * schedule.steps_per_epoch(len(images))
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, total_steps=max(2, steps), pct_start=0.15
    )
    # With new answers in every epoch their mean error jitters by more than what is still learned.
    coarse = unseen()
    measured = coarse[:MEASURED]
    losses = []
    for epoch in range(schedule.epochs):
        if source.changes:
            coarse = unseen()
        for batch in torch.split(rng.permutation(len(images), images.device), schedule.batch_size):
            optimiser.zero_grad()
            F.mse_loss(mender(coarse[batch]), images[batch]).backward()
            optimiser.step()
            rate.step()
        with torch.no_grad():
            losses.append(float(F.mse_loss(mender(measured), images[:MEASURED])))
        progress((epoch + 1) / schedule.epochs)
    return losses


@dataclass(frozen=True)
class _Linear:
    """Linear decoders: one fitted to all images, and one for each fold of them, fitted to the others.

    Attributes:
        weight: [features, pixels].
        without: [FOLDS, features, pixels].
        fold: [n], the fold of each image.
        mean: [channels, height, width], the mean image.
    """

    weight: Tensor
    without: Tensor
    fold: Tensor
    mean: Tensor

    def decode(self, features: Tensor) -> Tensor:
        """Images for features ([n, features]) of images that were not fitted to."""
        return (features @ self.weight).view(-1, *self.mean.shape) + self.mean

    def decode_unseen(self, features: Tensor) -> Tensor:
        """Images for the known images' features, each by the decoder that was not fitted to it."""
        decoded = features.new_empty(len(features), self.without.shape[2])
        for fold, weight in enumerate(self.without):
            decoded[self.fold == fold] = features[self.fold == fold] @ weight
        return decoded.view(-1, *self.mean.shape) + self.mean


def _fit_linear(source: _Source, reader: Reader, draws: int, rng: Rng, memory: int) -> _Linear:
    """Ridge regression over several draws; the penalty is the one that does best on the first fold's images."""
    images = source.images
    # The images come in random order: folds by position are random folds.
    fold = torch.arange(len(images), device=images.device) % FOLDS
    mean = images.mean(dim=0)
    pixels = (images - mean).flatten(1)
    drawn = [reader.features(source.answers()) for _ in range(draws if source.changes else 1)]
    rows = [fold == index for index in range(FOLDS)]
    grams = torch.stack([sum((f[r].T @ f[r] for f in drawn), start=pixels.new_zeros(())) for r in rows]) / len(drawn)
    # The cross products are linear in the features: the draws' mean gives the draws' mean.
    centre = torch.stack(drawn).mean(dim=0)
    del drawn
    gram = grams.sum(dim=0)
    unit = gram.diagonal().mean()
    # A client that always sends the same leaves nothing to fit: any penalty then gives the mean image.
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))

    sums = pixels @ rng.normal((pixels.shape[1], SUMS), pixels.device)
    held_out = reader.features(source.answers())[rows[0]]

    def error(penalty: float) -> float:
        factor = _factor(gram - grams[0], penalty * unit)
        weight = torch.cholesky_solve(centre[~rows[0]].T @ sums[~rows[0]], factor)
        return float((held_out @ weight - sums[rows[0]]).square().mean())

    penalty = min(PENALTIES, key=error) * unit
    whole, others = _factor(gram, penalty), [_factor(gram - part, penalty) for part in grams]
    n_features = gram.shape[0]
    weight = pixels.new_empty(n_features, pixels.shape[1])
    without = pixels.new_empty(FOLDS, n_features, pixels.shape[1])
    # Pixels are solved for independently of each other: as many at once as fit.
    size = max(1, memory // (8 * FOLDS * n_features * pixels.element_size()))
    for start in range(0, pixels.shape[1], size):
        part = slice(start, start + size)
        crosses = torch.stack([centre[r].T @ pixels[r, part] for r in rows])
        cross = crosses.sum(dim=0)
        weight[:, part] = torch.cholesky_solve(cross, whole)
        for index in range(FOLDS):
            without[index][:, part] = torch.cholesky_solve(cross - crosses[index], others[index])
    return _Linear(weight, without, fold, mean)


def _factor(gram: Tensor, penalty: Tensor) -> Tensor:
    factor: Tensor = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), device=gram.device))
    return factor
