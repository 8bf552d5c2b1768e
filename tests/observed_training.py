"""Short real split trainings under defenses, and the view a server has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.base import Attack, Budget, Finding
from benchmark.cell import TargetRule
from benchmark.data import Dataset, choose_targets
from benchmark.models import mnist_net, network, split
from benchmark.protection import Protection
from benchmark.protocol import Step, Training, Wire, batches, split_step
from benchmark.seeds import Rng
from benchmark.training_view import TrainingView, TrainingWatcher
from benchmark.view import Knowledge, KnownLabels, Secrets, ServerView
from defenses.base import Defense

TARGETS_A_CLASS = 10


@dataclass(frozen=True)
class Observed:
    """What a server saw of the first samples of each class, and their labels."""

    seen: TrainingView
    sizes: Tensor
    body: torch.nn.Module
    labels: Tensor
    tail: str
    accuracy: float
    protection: Protection

    @property
    def truth(self) -> Tensor:
        return self.labels[~self.seen.is_known]

    def view(self, attack: Attack, granted: frozenset[Knowledge] | None = None) -> ServerView:
        targets = self.seen.rows((~self.seen.is_known).nonzero().flatten())
        secrets = Secrets(
            known_labels=self.known(),
            weight_gradients=targets.weight_gradients,
            protection=self.protection.restarted("attacker"),
        )
        return ServerView(
            smashed=targets.smashed,
            phase="training",
            topology="u_shaped",
            image_shape=(1, 28, 28),
            n_classes=10,
            cut="pool1",
            tail_name=self.tail,
            body=self.body,
            body_outputs=targets.body_outputs,
            cut_gradients=targets.cut_gradients,
            labels=None,
            _factory=mnist_net,
            _granted=attack.knowledge() if granted is None else granted,
            _secrets=secrets,
            batch_sizes=self.sizes,
        )

    def known(self) -> KnownLabels:
        rows = self.seen.rows(self.seen.is_known.nonzero().flatten())
        return KnownLabels(rows.smashed, rows.body_outputs, rows.cut_gradients, self.labels[self.seen.is_known])

    def accuracy_of(self, attack: Attack) -> float:
        return float((run(attack, [self.view(attack)])[0].labels == self.truth).double().mean())


def run(attack: Attack, views: Sequence[ServerView], budget: Budget | None = None) -> list[Finding]:
    return attack.run(views, budget or Budget(), lambda _: None)


def only(view: ServerView, **changes: object) -> ServerView:
    return replace(view, **changes)  # type: ignore[arg-type]


def observe(
    digits: Dataset,
    tail: str = "fc3",
    defenses: Sequence[Defense] = (),
    batch_size: int = 50,
    records: int = 1000,
    epochs: int = 3,
    seed: int = 0,
) -> Observed:
    part = digits.victim.select(torch.arange(records))
    root = Rng("observed training", seed)
    parts = split(network(mnist_net, (1, 28, 28), 10, root.child("weights")), "pool1", tail)
    chosen = choose_targets(part, TargetRule("per_class", TARGETS_A_CLASS + 1)).reshape(10, -1)
    # In no order, as views are.
    targets = chosen[:, 1:].flatten()[root.child("targets").permutation(10 * TARGETS_A_CLASS)]
    watcher = TrainingWatcher(targets, chosen[:, 0][root.child("known").permutation(10)])
    optimisers = {
        name: torch.optim.Adam(module.parameters(), lr=2e-3, amsgrad=True) for name, module in parts.parts().items()
    }
    training = Training(
        parts.head, parts.body, parts.tail, optimisers, records, batch_size, epochs, root.child("privatise")
    )
    protection = Protection(defenses, root.child("noise"))
    training = protection.privatise(training)
    labels = protection.labels(part.labels, 10)
    order, number = root.child("batches"), 0
    for epoch in range(epochs):
        for ids in batches(training, order):
            step = Step(part.images[ids], labels[ids], ids, epoch, number)
            split_step(training, protection, step, Wire(watcher.receive))
            watcher.disclose(training.tail or parts.head, ids, epoch)
            number += 1
    with torch.no_grad():
        right = parts.evaluate(digits.test.images).argmax(dim=1) == digits.test.labels
    seen = watcher.view()
    sizes = torch.full((epochs, int((~seen.is_known).sum())), batch_size)
    return Observed(
        seen, sizes, parts.body, part.labels[seen.positions], tail, float(right.double().mean()), protection
    )
