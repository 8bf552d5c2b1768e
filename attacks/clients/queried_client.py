"""A defended client that may be queried, as what it answers to auxiliary images, and what it sent of the targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.base import Stance
from benchmark.view import ServerView

# Elements of smashed data asked for at once: fixed by their shape, because a defense's draws depend on the batch.
QUERY_ELEMENTS = 1 << 21
QUERY_BATCH = 250


class QueriedClient:
    """The client behind a view, asked about images.

    In the stances `aware` and `adaptive` a random client is asked anew for every draw; in `oblivious` once and for all.
    An `adaptive` attacker's answers are means of as many queries as there are in the targets' means. Where that takes
    more queries than allowed, new answers are mixed from those at hand: a = sum_j c_j a_j with sum c_j = 1 and
    sum c_j^2 = 1 has their mean and covariance, and is exact where the mean of the queries is normally distributed.

    Args:
        view: In the training phase the head moves between epochs: what was sent in earlier ones counts in the
            `adaptive` stance alone, and less the further it has moved, measured against the noise.
        images: [n, channels, height, width], what is asked about.
        stance: Of the attacker.
        queries: How often it asks about an image at most, unless `FEWEST` answers take more.
        query: What answers instead of the view's client: images to smashed data.

    Attributes:
        images: [n, channels, height, width].
        targets: [targets, ...], what was sent of the targets, one mean each.
        changes: Whether the same question gets different answers; never so for an oblivious attacker.
        seen: Queries that are averaged in an answer.
    """

    FEWEST = 4

    def __init__(
        self,
        view: ServerView,
        images: Tensor,
        stance: Stance,
        queries: int,
        query: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.images = images
        self._query, self._units = query or view.query, view.smashed[0, 0].numel()
        self._rng = view.rng("mixtures")
        self._answers: list[Tensor] = []
        self._first: Tensor | None = self._ask()
        self.changes = False
        self.seen = 1
        sent = view.smashed if view.phase == "inference" else view.smashed[-1:]
        weights = torch.full((len(sent),), 1 / len(sent), device=sent.device)
        if stance != "oblivious":
            second = self._ask()
            self.changes = not torch.equal(self._first, second)
            if self.changes and stance == "adaptive":
                if view.phase == "training":
                    sent = view.smashed
                    weights = _weights_of_epochs(sent, self._first, second)
                self.seen = max(1, round(1 / float(weights.square().sum())))
        self.targets = torch.einsum("k,k...->...", weights, sent)
        self._most = max(self.FEWEST, queries // self.seen)

    def answers(self) -> Tensor:
        """What it sends of the images, [n, ...]; a new draw on every call where it changes."""
        if not self.changes:
            assert self._first is not None
            return self._first
        if len(self._answers) < self._most:
            self._answers.append(self._mean_of_queries())
            return self._answers[-1]
        return self._mixture()

    def _mean_of_queries(self) -> Tensor:
        first, self._first = self._first, None
        total = self._ask() if first is None else first.clone()
        for _ in range(1, self.seen):
            total += self._ask()
        return total / self.seen

    def _mixture(self) -> Tensor:
        """An answer made of those at hand, other shares for every image."""
        directions = self._rng.normal((len(self.images), len(self._answers)), self.images.device)
        centred = directions - directions.mean(dim=1, keepdim=True)
        even = 1 / len(self._answers)
        # Off the even mixture by a step of squared length 1 - 1/m, in a direction that leaves the sum at 1.
        shares = even + (1 - even) ** 0.5 * centred / centred.norm(dim=1, keepdim=True)
        mixed = torch.zeros_like(self._answers[0])
        for share, answer in zip(shares.T, self._answers, strict=True):
            mixed += share.view(-1, *[1] * (answer.dim() - 1)) * answer
        return mixed

    def _ask(self) -> Tensor:
        with torch.no_grad():
            batches = torch.split(self.images, max(1, min(QUERY_BATCH, QUERY_ELEMENTS // self._units)))
            return torch.cat([self._query(batch).detach() for batch in batches])


def _weights_of_epochs(sent: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """How much each epoch's smashed data count in the mean, [k], summing to 1.

    With noise of variance v in every epoch, and epoch e sent d_e away from the last one, the mean's squared error is
    at most v sum w_e^2 + (sum w_e d_e)^2. What an epoch differs by from the last one is 2 v + d_e^2; v is half of what
    two answers to the same images differ by. Units count by the variance of the answers.

    Args:
        sent: [k, targets, ...], oldest first.
        one, other: [n, ...], two answers to the same images.
    """
    scale = one.std(dim=0)
    scale = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    noise = ((one - other) * scale).square().mean() / 2
    drift = torch.stack([((epoch - sent[-1]) * scale).square().mean() for epoch in sent]) - 2 * noise
    drift[-1] = 0
    distance = drift.clamp_min(0).sqrt()
    square = noise * torch.eye(len(sent), device=sent.device) + torch.outer(distance, distance)
    weights: Tensor = torch.linalg.solve(square, torch.ones_like(distance)).clamp_min(0)
    return weights / weights.sum()
