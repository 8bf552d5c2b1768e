"""What the server may see: the only thing an attack receives.

An attack declares its knowledge; the view raises on everything that is not granted, so that a threat model is a
type and not a promise. What the server always has in its protocol (smashed data, its own half, the client's
architecture) needs
no declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from benchmark.errors import NotGranted
from benchmark.models import Factory, ImageShape, network, split
from benchmark.seeds import Rng

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.protection import Protection

Phase = Literal["training", "inference"]
Topology = Literal["vanilla", "u_shaped"]
_T = TypeVar("_T")


class Knowledge(StrEnum):
    """What an attacker can be granted beyond the protocol."""

    ARCHITECTURE = "architecture"
    AUXILIARY = "auxiliary"
    QUERY = "query"
    KNOWN_LABELS = "k labels"
    DEFENSE = "defense"
    CLIENT_WEIGHTS = "client weights"
    WEIGHT_GRADIENTS = "weight gradients"


def threat_model(knowledge: Iterable[Knowledge], assumed: str | None = None) -> str:
    """Name of the threat model that grants exactly `knowledge`; architecture is always granted.

    An attacker who takes the model `assumed` for the client's knows `architecture of ASSUMED` in its place.

    `white box` and `weight gradients` are models of their own; the others are written `architecture+auxiliary+query`.
    Knowing the defense is a stance, not a threat model: it does not change the name.
    """
    granted = set(knowledge) - {Knowledge.DEFENSE}
    if Knowledge.WEIGHT_GRADIENTS in granted:
        return "weight gradients"
    if Knowledge.CLIENT_WEIGHTS in granted:
        return "white box"
    named = [str(k) for k in Knowledge if k in granted]
    architecture = str(Knowledge.ARCHITECTURE) if assumed is None else f"{Knowledge.ARCHITECTURE} of {assumed}"
    return "+".join([architecture, *(name for name in named if name != Knowledge.ARCHITECTURE)])


@dataclass(frozen=True)
class KnownLabels:
    """Labels the attacker knows: those of other observed samples, never of a target.

    Attributes:
        smashed: What the server saw of them, [k, m, ...].
        body_outputs: What its body made of them, [k, m, ...], or None outside the u-shaped topology.
        cut_gradients: What the label owner sent back, [k, m, ...], or None outside u-shaped training.
        labels: [m], int64.
    """

    smashed: Tensor
    body_outputs: Tensor | None
    cut_gradients: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class Secrets:
    """What only declared knowledge opens. Built by the harness; an attack never sees it whole."""

    client_head: nn.Module | None = None
    auxiliary: Part | None = None
    query: Callable[[Tensor], Tensor] | None = None
    known_labels: KnownLabels | None = None
    weight_gradients: Mapping[str, Tensor] | None = None
    protection: Protection | None = None


@dataclass(frozen=True)
class ServerView:
    """What the server saw of n private samples (the targets), k times each.

    Attributes:
        smashed: [k, n, ...]; k queries (inference) or one entry an epoch, oldest first (training).
        phase: When it was seen.
        topology: `vanilla` or `u_shaped`.
        image_shape: (channels, height, width) of the inputs; part of the client's architecture.
        n_classes: Number of labels.
        cut: Name of the head's last module.
        tail_name: Name of the tail's first module, or None.
        body: The server's own half, frozen.
        body_outputs: [k, n, ...] what it sent to the client; u-shaped topology only, else None.
        cut_gradients: [k, n, ...] what the label owner sent back; u-shaped training only, else None. Row i is the
            gradient of the batch's loss (see `loss_reduction`) with respect to sample i's body output.
        labels: [n], vanilla training only (the server is given them), else None.
        loss_reduction: How the client reduces its loss over a batch, `mean` or `sum`; part of the protocol.
        batch_sizes: [k, n], int64: samples in the batch each target was in, which the server can count;
            training only, else None.
    """

    smashed: Tensor
    phase: Phase
    topology: Topology
    image_shape: ImageShape
    n_classes: int
    cut: str
    tail_name: str | None
    body: nn.Module
    body_outputs: Tensor | None
    cut_gradients: Tensor | None
    labels: Tensor | None
    _factory: Factory = field(repr=False)
    _granted: frozenset[Knowledge] = field(repr=False)
    _secrets: Secrets = field(repr=False)
    _attack_seed: int = 0
    loss_reduction: Literal["mean", "sum"] = "mean"
    batch_sizes: Tensor | None = None

    @property
    def n(self) -> int:
        """Number of targets."""
        return int(self.smashed.shape[1])

    @property
    def k(self) -> int:
        """How often each target was seen."""
        return int(self.smashed.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the tensors are; an attack makes its own there."""
        return self.smashed.device

    def rng(self, *purpose: object) -> Rng:
        """The attacker's stream for `purpose`: depends on the cut's shape and the attack seed, not on the victim."""
        return Rng("attack", list(self.smashed.shape[2:]), self._attack_seed, *purpose)

    def new_network(self, rng: Rng) -> nn.Sequential:
        """A freshly initialised network of the client's and server's architecture, on the view's device."""
        return network(self._factory, self.image_shape, self.n_classes, rng).to(self.device)

    def new_head(self, rng: Rng) -> nn.Module:
        """A freshly initialised head of the client's architecture: what a clone starts from."""
        return split(self.new_network(rng), self.cut, self.tail_name).head

    def new_tail(self, rng: Rng) -> nn.Module:
        """A freshly initialised tail of the client's architecture; u-shaped topology only."""
        tail = split(self.new_network(rng), self.cut, self.tail_name).tail
        if tail is None:
            raise NotGranted("this view is of the vanilla topology: the client holds no tail")
        return tail

    @property
    def client_head(self) -> nn.Module:
        """The client's head with its weights, frozen. Needs `client weights`."""
        return self._open(Knowledge.CLIENT_WEIGHTS, self._secrets.client_head)

    @property
    def auxiliary(self) -> Part:
        """Images of the same distribution, with labels, disjoint from the targets. Needs `auxiliary`."""
        return self._open(Knowledge.AUXILIARY, self._secrets.auxiliary)

    def query(self, x: Tensor) -> Tensor:
        """What the defended client sends for images of the attacker's choice; needs `query`.

        The trained head answers, under the defenses as they act in the phase of this view: in the training phase their
        training hooks are called, so that a defense in one phase only helps in no other. They work on a copy: nothing
        that the victim learned moves.

        Args:
            x: Images in [0, 1], [n, channels, height, width].

        Returns:
            Smashed data, [n, ...]; a fresh draw on every call where a defense is random.
        """
        return self._open(Knowledge.QUERY, self._secrets.query)(x)

    @property
    def known_labels(self) -> KnownLabels:
        """Observed samples with their labels, k a class. Needs `k labels`."""
        return self._open(Knowledge.KNOWN_LABELS, self._secrets.known_labels)

    @property
    def weight_gradients(self) -> Mapping[str, Tensor]:
        """Gradients of the tail's own parameters for the batch each target was in; needs `weight gradients`.

        One entry a parameter, under its name in `tail.named_parameters()` and in that order (`fc3.weight`, `fc3.bias`),
        each [k, n, *parameter shape]. No server receives them: attacks that read them are kept in tables of their own.
        """
        return self._open(Knowledge.WEIGHT_GRADIENTS, self._secrets.weight_gradients)

    @property
    def protection(self) -> Protection:
        """The defenses themselves, with fresh randomness. Needs `defense` (aware and adaptive stances)."""
        return self._open(Knowledge.DEFENSE, self._secrets.protection)

    def _open(self, wanted: Knowledge, secret: _T | None) -> _T:
        if wanted not in self._granted:
            granted = ", ".join(sorted(self._granted)) or "nothing"
            raise NotGranted(
                f"the attack asked its view for {wanted.value!r}, but declares only: {granted}; "
                f"add Knowledge.{wanted.name} to its knowledge or do without"
            )
        if secret is None:
            raise NotGranted(
                f"the view holds no {wanted.value!r} in the {self.topology} topology, {self.phase} phase; "
                "run the attack where there is some"
            )
        return secret
