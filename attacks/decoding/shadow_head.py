"""A head of the attacker's own that takes the client's place: it suits the server's body, and sends what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.clients.defended_path import ClientModel, HookModel
from benchmark.parts import Part
from benchmark.seeds import Rng
from benchmark.view import ServerView

PATCH = 3
# Above so many entries of a patch their covariances cost more than they tell; smaller patches stand in.
MOST_ENTRIES = 1024
# Patches of a batch that are looked at, about.
MOST_PATCHES = 8192
MEASURED = 250
MEASUREMENTS = 12
# Where views are averaged, means of so many draws are compared at most.
MOST_DRAWS = 4
# Stream of the draws that measurements are made with; training counts its own from 1.
FIXED = 0


@dataclass(frozen=True)
class ShadowSchedule:
    """How long the head is trained.

    Attributes:
        steps: Gradient steps.
        batch_size: Auxiliary images a step.
        learning_rate: Peak learning rate of Adam; warm-up, then cosine.
        matching: Weight of the mismatch of moments against the cross-entropy.
    """

    steps: int
    batch_size: int
    learning_rate: float
    matching: float


@dataclass(frozen=True)
class ShadowClient:
    """The attacker's model of the client.

    Attributes:
        head: Of the client's architecture.
        model: The defenses' own hooks; without any for an oblivious attacker.
    """

    head: nn.Module
    model: ClientModel

    def __call__(self, x: Tensor, draw: int) -> Tensor:
        """Smashed data, [n, ...], for images; the same draw of the defense's randomness for the same number."""
        for hook in self.model.inputs:
            x = _through(hook, x, draw)
        z: Tensor = self.head(x)
        for hook in self.model.activations:
            z = _through(hook, z, draw)
        return z


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the patches of smashed data, pooled over samples and places.

    The second-order statistics of Sun and Saenko, "Deep CORAL" (2016), eq. 1, taken of PATCH x PATCH neighbourhoods:
    ten samples hold a thousand of them.

    Attributes:
        mean: [entries].
        covariance: [entries, entries], or [entries] where there are too many.
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, smashed: Tensor, stride: int = 1, start: tuple[int, int] = (0, 0)) -> Moments:
        """Of smashed data, [n, ...].

        Args:
            smashed: Maps, [n, channels, height, width], or vectors.
            stride: Between the patches of maps.
            start: The first patch's place.
        """
        if smashed.dim() == 4:
            side = _side(smashed)
            maps = smashed[:, :, start[0] :, start[1] :]
            rows = F.unfold(maps, side, stride=stride).transpose(1, 2).flatten(0, 1)
        else:
            rows = smashed.flatten(1)
        mean = rows.mean(dim=0)
        centred = rows - mean
        if rows.shape[1] > MOST_ENTRIES:
            return cls(mean, centred.square().mean(dim=0))
        return cls(mean, centred.T @ centred / len(rows))

    def mismatch(self, other: Moments) -> Tensor:
        """How far another's moments are from these, each in units of these."""
        variance = (self.covariance.diagonal() if self.covariance.dim() == 2 else self.covariance).sum()
        mean = (other.mean - self.mean).square().sum() / (self.mean.square().sum() + variance).clamp_min(1e-30)
        spread: Tensor = (other.covariance - self.covariance).square().sum()
        return mean + spread / self.covariance.square().sum().clamp_min(1e-30)


def train_shadow(
    view: ServerView,
    part: Part,
    sent: Tensor,
    draws: int,
    model: ClientModel,
    schedule: ShadowSchedule,
    progress: Callable[[float], None],
) -> tuple[ShadowClient, list[float]]:
    """Train a fresh head so that the server's body classifies what it sends, and that this is distributed as `sent`.

    Args:
        view: Holds body and architecture. In the u-shaped topology a fresh tail is trained as well.
        part: Auxiliary images with their labels.
        sent: [samples, ...] what the client sent; each a mean of `draws` views.
        draws: At most `MOST_DRAWS`.
        model: The hooks to be put in between.
        schedule: How long.
        progress: Called with the done fraction.

    Returns:
        The client, and its objective over the first images at `MEASUREMENTS` equally spaced moments.
    """
    head = view.new_head(view.rng("shadow")).requires_grad_(True).eval()
    tail = view.new_tail(view.rng("shadow")).requires_grad_(True) if view.topology == "u_shaped" else None
    client = ShadowClient(head, model)
    wanted = Moments.of(sent)
    trained = [*head.parameters(), *(tail.parameters() if tail is not None else ())]
    rng = view.rng("shadow places")

    def objective(x: Tensor, y: Tensor, draw: int) -> Tensor:
        z = torch.stack([client(x, draw * MOST_DRAWS + index) for index in range(draws)]).mean(dim=0)
        logits = view.body(z)
        loss = F.cross_entropy(logits if tail is None else tail(logits), y)
        stride, start = _places(z, rng) if draw != FIXED else (_stride(z), (0, 0))
        return loss + schedule.matching * wanted.mismatch(Moments.of(z, stride, start))

    def measured() -> float:
        with torch.no_grad():
            return float(objective(part.images[:MEASURED], part.labels[:MEASURED], FIXED))

    if not trained:
        return client, [measured()] * MEASUREMENTS
    # Fused, because it keeps its state on the weights' device whatever the default device is.
    optimiser = torch.optim.Adam(trained, lr=schedule.learning_rate, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, total_steps=max(2, schedule.steps), pct_start=0.15
    )
    due = [-(-schedule.steps * (index + 1) // MEASUREMENTS) for index in range(MEASUREMENTS)]
    losses: list[float] = []
    for step, batch in enumerate(_batches(part, schedule, view.rng("shadow order")), start=1):
        optimiser.zero_grad()
        objective(part.images[batch], part.labels[batch], step).backward()
        optimiser.step()
        rate.step()
        if step in due:
            losses += [measured()] * due.count(step)
        progress(step / schedule.steps)
    head.requires_grad_(False)
    return client, losses


def _batches(part: Part, schedule: ShadowSchedule, rng: Rng) -> Iterator[Tensor]:
    size, left = min(schedule.batch_size, len(part)), schedule.steps
    while left:
        order = rng.permutation(len(part), part.images.device)
        # A last batch of a few images has no moments worth the name.
        for start in range(0, len(part) - size + 1, size)[:left]:
            yield order[start : start + size]
            left -= 1


def _through(hook: HookModel, values: Tensor, draw: int) -> Tensor:
    return hook(values.unsqueeze(0), [0], draw)[0]


def _side(maps: Tensor) -> int:
    fitting = (side for side in range(PATCH, 1, -1) if maps.shape[1] * side**2 <= MOST_ENTRIES)
    side: int = min(next(fitting, 1), *maps.shape[2:])
    return side


def _stride(smashed: Tensor) -> int:
    """Between patches, so that a batch has about `MOST_PATCHES`."""
    if smashed.dim() != 4:
        return 1
    side, stride = _side(smashed), 1
    rows, columns = (n - side + 1 for n in smashed.shape[2:])
    while len(smashed) * -(-rows // stride) * -(-columns // stride) > MOST_PATCHES and stride < min(rows, columns):
        stride += 1
    return stride


def _places(smashed: Tensor, rng: Rng) -> tuple[int, tuple[int, int]]:
    stride = _stride(smashed)
    row, column = rng.integers(stride, (2,)).tolist()
    return stride, (int(row), int(column))
