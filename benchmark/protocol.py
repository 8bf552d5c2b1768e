"""The split-learning step: what each party computes, and what goes over the wire.

Two topologies. `vanilla`: the client holds the head, the server body and labels. `u_shaped`: the client holds head,
tail and labels, the server only the body. Nothing but the tensors given to `Wire.send` passes from one party to the
other, and each is detached as it is sent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.protection import Protection
    from benchmark.seeds import Rng

What = Literal["smashed", "labels", "body_output", "cut_gradient", "input_gradient"]


@dataclass(frozen=True)
class Message:
    """One tensor on the wire.

    Attributes:
        sender: Who sent it.
        what: `smashed` and `labels` (vanilla) go from client to server, `body_output` from server to client (u-shaped),
            `cut_gradient` from the label-owning client to the server (u-shaped; row i is the gradient with respect to
            sample i's body output), `input_gradient` from the server to the client.
        tensor: Detached; rows in batch order.
        ids: Positions of the batch's samples in the victim's training part; a server can tell its clients' rows apart.
        epoch: Counted from 0.
    """

    sender: Literal["client", "server"]
    what: What
    tensor: Tensor
    ids: Tensor
    epoch: int


@dataclass
class Wire:
    """Carries tensors between the parties, and shows a passive observer what the server receives or sends.

    The observer gets copies: it cannot change what the parties see.
    """

    observer: Callable[[Message], None] | None = None

    def send(self, sender: Literal["client", "server"], what: What, tensor: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """Deliver `tensor`, detached, to the other party."""
        delivered = tensor.detach()
        if self.observer is not None:
            self.observer(Message(sender, what, delivered.clone(), ids, epoch))
        return delivered


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


@dataclass
class Training:
    """Everything the split training steps work with; what a defense's `privatise` may change.

    Attributes:
        head, body, tail: The parts; `tail` is None in the vanilla topology.
        optimisers: By name. Each steps once a batch.
        n_records: Size of the training part.
        batch_size: Expected batch size.
        epochs: Passes over the training part.
        rng: Stream for whatever a defense draws while training (DP-SGD noise).
        sampling: `shuffled`: every record once an epoch. `poisson`: every record joins each batch independently with
            probability `batch_size / n_records`; a batch may be empty.
        reduction: `mean`: the loss is the batch's mean. `sum`: its sum; the gradients of optimisers not named in
            `private` are then divided by `batch_size`.
        private: Names of the optimisers that scale gradients themselves (DP-SGD).
        unwrap: Gives back the plain module behind whatever `privatise` wrapped around a part.
    """

    head: nn.Module
    body: nn.Module
    tail: nn.Module | None
    optimisers: dict[str, torch.optim.Optimizer]
    n_records: int
    batch_size: int
    epochs: int
    rng: Rng
    sampling: Literal["shuffled", "poisson"] = "shuffled"
    reduction: Literal["mean", "sum"] = "mean"
    private: frozenset[str] = field(default_factory=frozenset)
    unwrap: Callable[[nn.Module], nn.Module] = _as_it_is

    def parts(self) -> dict[str, nn.Module]:
        """The parts by name, without an absent tail."""
        named = {"head": self.head, "body": self.body, "tail": self.tail}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch has."""
        if self.sampling == "poisson":
            return max(1, self.n_records // self.batch_size)
        return -(-self.n_records // self.batch_size)


def batches(training: Training, rng: Rng) -> Iterator[Tensor]:
    """One epoch's batches as positions in the training part (int64 on the CPU), drawn from `rng`."""
    n, size = training.n_records, training.batch_size
    if training.sampling == "shuffled":
        yield from rng.permutation(n).split(size)
        return
    for _ in range(training.steps_per_epoch):
        yield (rng.uniform((n,)) < size / n).nonzero().flatten()


@dataclass(frozen=True)
class Step:
    """One step's batch.

    Attributes:
        x: Images, [batch, channels, height, width].
        y: Labels the client trains with (after label protection), [batch], int64.
        ids: Positions in the training part, [batch].
        epoch, number: Counted from 0; `number` runs on over the epochs.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    epoch: int
    number: int


def split_step(training: Training, protection: Protection, step: Step, wire: Wire) -> float:
    """Run one training step over the wire and update every part.

    Returns:
        The loss over the batch as the label owner computes it; 0 for an empty batch.
    """
    for optimiser in training.optimisers.values():
        optimiser.zero_grad()
    if len(step.ids) == 0:
        return _empty_step(training)

    # client
    x = protection.inputs(step.x, "training")
    z = training.head(x)
    protected = protection.activations(z, "training")
    received = wire.send("client", "smashed", protected, step.ids, step.epoch)

    # server
    at_server = received.requires_grad_(True)
    out = training.body(at_server)
    if training.tail is None:
        y = wire.send("client", "labels", step.y, step.ids, step.epoch)
        loss = F.cross_entropy(out, y, reduction=training.reduction)
        loss.backward()
    else:
        # client
        at_client = wire.send("server", "body_output", out, step.ids, step.epoch).requires_grad_(True)
        loss = F.cross_entropy(training.tail(at_client), step.y, reduction=training.reduction)
        loss.backward()
        gradient = protection.gradients(_gradient(at_client), step.y)
        # server
        out.backward(wire.send("client", "cut_gradient", gradient, step.ids, step.epoch))

    back = wire.send("server", "input_gradient", _gradient(at_server), step.ids, step.epoch)

    # client
    extra = protection.client_loss(step.x, z, step.y, step.number)
    if extra is not None:
        extra.backward(retain_graph=True)
    with warnings.catch_warnings():
        # Opacus hooks the head's backward pass; torch remarks that images want no gradient, which is as it should be.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        # A client without weights has nothing to learn.
        if protected.requires_grad:
            protected.backward(back)

    _update(training)
    value = float(loss.detach())
    if value != value:
        raise UserError(
            f"training diverged: the loss is NaN in epoch {step.epoch}, step {step.number}; "
            "lower the learning rate or weaken the defense"
        )
    return value


def _gradient(tensor: Tensor) -> Tensor:
    if tensor.grad is None:
        raise UserError("the loss does not depend on the smashed data; check the model's body and tail")
    return tensor.grad


def _update(training: Training) -> None:
    for name, optimiser in training.optimisers.items():
        if training.reduction == "sum" and name not in training.private:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.div_(training.batch_size)
        optimiser.step()


def _empty_step(training: Training) -> float:
    # Skipping an empty Poisson batch would break the accounting: a private optimiser still adds its noise.
    for name, optimiser in training.optimisers.items():
        if name in training.private:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            optimiser.step()
    return 0.0
