"""What the server saw of chosen samples while the victim trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.protocol import Message


@dataclass(frozen=True)
class TrainingView:
    """One entry an epoch for every watched sample that took part in training.

    Attributes:
        smashed: [epochs, n, ...].
        body_outputs, cut_gradients: [epochs, n, ...], u-shaped topology only.
        weight_gradients: Tail parameter -> [epochs, n, *shape], the gradient of the batch the sample was in;
            u-shaped only. Not
            on the wire: it is kept for the threat model `weight gradients`.
        positions: [n] positions in the victim's training part.
        is_known: [n] bool, the samples whose labels attackers may be granted.
        batch_sizes: [epochs, n], int64, samples in the batch each one was in.
        summed: [], bool: whether the loss was the batch's sum (DP-SGD) and not its mean.
    """

    smashed: Tensor
    positions: Tensor
    is_known: Tensor
    batch_sizes: Tensor
    summed: Tensor
    body_outputs: Tensor | None = None
    cut_gradients: Tensor | None = None
    weight_gradients: dict[str, Tensor] = field(default_factory=dict)

    def rows(self, chosen: Tensor) -> TrainingView:
        """The same view of the samples at `chosen` (indices into this view)."""
        return replace(self._mapped(lambda value: value[:, chosen]), **self._at(chosen))

    def latest(self, views: int) -> TrainingView:
        """The same view, only its last `views` epochs."""
        return self._mapped(lambda value: value[-views:])

    def _at(self, chosen: Tensor) -> dict[str, Any]:
        return {"positions": self.positions[chosen], "is_known": self.is_known[chosen]}

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> TrainingView:
        return replace(
            self,
            smashed=change(self.smashed),
            batch_sizes=change(self.batch_sizes),
            body_outputs=None if self.body_outputs is None else change(self.body_outputs),
            cut_gradients=None if self.cut_gradients is None else change(self.cut_gradients),
            weight_gradients={name: change(value) for name, value in self.weight_gradients.items()},
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """The view as named tensors, for a file."""
        named = {
            "smashed": self.smashed,
            "positions": self.positions,
            "is_known": self.is_known,
            "batch_sizes": self.batch_sizes,
            "summed": self.summed,
            "body_outputs": self.body_outputs,
            "cut_gradients": self.cut_gradients,
        }
        gradients = {f"weight_gradients/{name}": value for name, value in self.weight_gradients.items()}
        return {name: value for name, value in named.items() if value is not None} | gradients

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> TrainingView:
        """The view that `to_tensors` took apart."""
        prefix = "weight_gradients/"
        return cls(
            tensors["smashed"],
            tensors["positions"],
            tensors["is_known"],
            tensors["batch_sizes"],
            tensors["summed"],
            tensors.get("body_outputs"),
            tensors.get("cut_gradients"),
            {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)},
        )


class TrainingWatcher:
    """Collects, message by message, what concerns the watched samples.

    Args:
        targets: Positions in the training part that are to be attacked, in order.
        known: Further positions whose labels attackers may be granted.
        reduction: How the client reduces its loss over a batch.
    """

    def __init__(self, targets: Tensor, known: Tensor, reduction: Literal["mean", "sum"] = "mean") -> None:
        self._reduction = reduction
        self._positions = torch.cat([targets.cpu(), known.cpu()])
        self._is_known = torch.arange(len(self._positions), device="cpu") >= len(targets)
        self._index = {int(position): index for index, position in enumerate(self._positions)}
        self._rows: dict[str, dict[int, dict[int, Tensor]]] = defaultdict(lambda: defaultdict(dict))
        self._epochs = 0

    def receive(self, message: Message) -> None:
        """Keep the rows of a message that belong to watched samples."""
        if message.what in ("smashed", "body_output", "cut_gradient"):
            self._keep(message.what, message.ids, message.epoch, lambda row: message.tensor[row])
        if message.what == "smashed":
            size = torch.tensor(len(message.ids), device="cpu")
            self._keep("batch_size", message.ids, message.epoch, partial(_same, size))

    def disclose(self, tail: nn.Module, ids: Tensor, epoch: int) -> None:
        """Keep the gradient the client's own tail got for this batch; no server receives it."""
        for name, parameter in tail.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.detach().cpu().clone()
                self._keep(f"weight_gradients/{name}", ids, epoch, partial(_same, gradient))

    def _keep(self, what: str, ids: Tensor, epoch: int, row_of: Callable[[int], Tensor]) -> None:
        self._epochs = max(self._epochs, epoch + 1)
        for row, position in enumerate(ids.tolist()):
            if position in self._index:
                self._rows[what][self._index[position]][epoch] = row_of(row).cpu()

    def view(self) -> TrainingView:
        """Everything collected. Samples that no batch drew (Poisson sampling) are left out.

        In an epoch that did not draw a sample, its latest earlier view stands in, or else its first one.
        """
        drawn = sorted(self._rows["smashed"])
        stacked = {what: self._stacked(rows, drawn) for what, rows in self._rows.items()}
        prefix = "weight_gradients/"
        return TrainingView(
            stacked["smashed"],
            self._positions[drawn],
            self._is_known[drawn],
            stacked["batch_size"],
            torch.tensor(self._reduction == "sum", device="cpu"),
            stacked.get("body_output"),
            stacked.get("cut_gradient"),
            {n.removeprefix(prefix): v for n, v in stacked.items() if n.startswith(prefix)},
        )

    def _stacked(self, rows: dict[int, dict[int, Tensor]], drawn: list[int]) -> Tensor:
        columns = []
        for index in drawn:
            seen = rows[index]
            latest, column = seen[min(seen)], []
            for epoch in range(self._epochs):
                latest = seen.get(epoch, latest)
                column.append(latest)
            columns.append(torch.stack(column))
        return torch.stack(columns, dim=1)


def _same(gradient: Tensor, row: int) -> Tensor:
    return gradient
