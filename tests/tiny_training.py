"""A split training on a few real digits, step by step: what tests of defenses drive."""

from __future__ import annotations

import torch

from benchmark.data import Dataset
from benchmark.models import Split, mnist_net, network, split
from benchmark.protection import Protection
from benchmark.protocol import Step, Training, Wire, batches, split_step
from benchmark.seeds import Rng
from defenses.base import Defense


def digits_split(cut: str = "pool1", tail: str | None = None, name: str = "tiny") -> Split:
    return split(network(mnist_net, (1, 28, 28), 10, Rng(name)), cut, tail)


def started(
    digits: Dataset,
    parts: Split,
    *defenses: Defense,
    n: int = 64,
    batch_size: int = 16,
    epochs: int = 2,
    learning_rate: float = 0.1,
    adam: bool = False,
) -> tuple[Training, Protection]:
    """Training and protection after `prepare` and `privatise`, before the first step."""
    protection = Protection(defenses, Rng("protection"))
    parts = protection.prepare(parts, digits.victim.select(torch.arange(n, device="cpu")))
    optimisers: dict[str, torch.optim.Optimizer] = {
        name: (
            torch.optim.Adam(part.parameters(), lr=1e-3, amsgrad=True)
            if adam
            else torch.optim.SGD(part.parameters(), lr=learning_rate)
        )
        for name, part in parts.parts().items()
        if any(True for _ in part.parameters())
    }
    training = Training(parts.head, parts.body, parts.tail, optimisers, n, batch_size, epochs, rng=Rng("training"))
    return protection.privatise(training), protection


def step_of(digits: Dataset, ids: torch.Tensor, number: int = 0, epoch: int = 0) -> Step:
    return Step(digits.victim.images[ids], digits.victim.labels[ids], ids, epoch, number)


def run(digits: Dataset, training: Training, protection: Protection) -> list[torch.Tensor]:
    """Train to the end; returns the batches drawn."""
    order, drawn = Rng("batches"), []
    for epoch in range(training.epochs):
        for ids in batches(training, order):
            split_step(training, protection, step_of(digits, ids, len(drawn), epoch), Wire())
            drawn.append(ids)
    return drawn
