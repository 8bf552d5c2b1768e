"""A head of the attacker's own that takes the client's place: it suits the server's body, and sends what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.clients.defended_path import ClientModel, HookModel
from attacks.decoding.patch_statistics import Observed, PatchStatistics, patch_stride
from benchmark.parts import Part
from benchmark.seeds import Rng
from benchmark.view import ServerView

MEASURED = 250
MEASUREMENTS = 12
# A fresh head may have channels that are never on and stay so: the best of some, after a part of the steps.
STARTS = 4
TRIALS = 4
# Share of the steps after which all is asked for that what was sent tells.
FALLEN = 0.8
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
        matching: Weight of the mismatch of what is sent against the cross-entropy.
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
class _Shadow:
    """A client that is trained, in the u-shaped topology with a tail of its own."""

    client: ShadowClient
    tail: nn.Module | None

    @classmethod
    def fresh(cls, view: ServerView, model: ClientModel, start: int) -> _Shadow:
        head = view.new_head(view.rng("shadow", start)).requires_grad_(True).eval()
        tail = None
        if view.topology == "u_shaped":
            tail = view.new_tail(view.rng("shadow", start)).requires_grad_(True)
        return cls(ShadowClient(head, model), tail)

    @property
    def weights(self) -> list[nn.Parameter]:
        return [*self.client.head.parameters(), *(self.tail.parameters() if self.tail is not None else ())]


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
        The client that did best of `STARTS` in a quarter of the steps and was trained in the others, and its objective
        over the first images at `MEASUREMENTS` equally spaced moments of these.
    """
    wanted = Observed.of(sent, view.n)
    places = view.rng("shadow places")

    def objective(shadow: _Shadow, x: Tensor, y: Tensor, draw: int, done: float) -> Tensor:
        z = torch.stack([shadow.client(x, draw * MOST_DRAWS + index) for index in range(draws)]).mean(dim=0)
        logits = view.body(z)
        loss = F.cross_entropy(logits if shadow.tail is None else shadow.tail(logits), y)
        stride, start = _places(z, places) if draw != FIXED else (patch_stride(z), (0, 0))
        return loss + schedule.matching * wanted.mismatch(PatchStatistics.of(z, stride, start), done)

    def measured(shadow: _Shadow) -> float:
        with torch.no_grad():
            return float(objective(shadow, part.images[:MEASURED], part.labels[:MEASURED], FIXED, 1.0))

    shadows = [_Shadow.fresh(view, model, start) for start in range(STARTS)]
    if not shadows[0].weights:
        return shadows[0].client, [measured(shadows[0])] * MEASUREMENTS
    batches = _batches(part, schedule, view.rng("shadow order"))
    first = schedule.steps // TRIALS // STARTS
    last = schedule.steps - first * STARTS
    taken = count(FIXED + 1)

    def descend(shadow: _Shadow, steps: int, after: Callable[[int], None]) -> None:
        # Fused, because it keeps its state on the weights' device whatever the default device is.
        optimiser = torch.optim.Adam(shadow.weights, lr=schedule.learning_rate, fused=True)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, schedule.learning_rate, total_steps=max(2, steps), pct_start=0.15
        )
        for step, draw, batch in zip(range(1, steps + 1), taken, batches, strict=False):
            optimiser.zero_grad()
            done = min(1.0, step / steps / FALLEN)
            objective(shadow, part.images[batch], part.labels[batch], draw, done).backward()
            optimiser.step()
            rate.step()
            after(step)
            progress(draw / schedule.steps)

    for shadow in shadows:
        descend(shadow, first, lambda step: None)
    best = min(shadows, key=measured)
    due = [-(-last * (index + 1) // MEASUREMENTS) for index in range(MEASUREMENTS)]
    losses: list[float] = []

    def measure(step: int) -> None:
        if step in due:
            losses.extend([measured(best)] * due.count(step))

    descend(best, last, measure)
    best.client.head.requires_grad_(False)
    return best.client, losses


def _batches(part: Part, schedule: ShadowSchedule, rng: Rng) -> Iterator[Tensor]:
    size = min(schedule.batch_size, len(part))
    while True:
        order = rng.permutation(len(part), part.images.device)
        # A last batch of a few images has no statistics worth the name.
        for start in range(0, len(part) - size + 1, size):
            yield order[start : start + size]


def _through(hook: HookModel, values: Tensor, draw: int) -> Tensor:
    return hook(values.unsqueeze(0), [0], draw)[0]


def _places(smashed: Tensor, rng: Rng) -> tuple[int, tuple[int, int]]:
    stride = patch_stride(smashed)
    row, column = rng.integers(stride, (2,)).tolist()
    return stride, (int(row), int(column))
