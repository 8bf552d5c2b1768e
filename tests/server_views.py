"""Small real views for tests of attacks: real digits through heads of `mnist_net`."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from benchmark.data import load_dataset
from benchmark.models import MODELS, network, split
from benchmark.seeds import Rng
from benchmark.view import Knowledge, Secrets, ServerView

SHAPE = (1, 28, 28)


@cache
def _digits() -> Tensor:
    return load_dataset("mnist-5k").test.images


def images(n: int) -> Tensor:
    """The first n test digits, [n, 1, 28, 28]."""
    return _digits()[:n].clone()


def head(cut: str, seed: int = 0, who: str = "victim") -> nn.Module:
    """A head of `mnist_net` with weights of its own."""
    return split(network(MODELS["mnist_net"], SHAPE, 10, Rng(who, seed)), cut).head


def clone(cut: str, seed: int = 0) -> nn.Module:
    """Another head of the same architecture."""
    return head(cut, seed, "clone")


def view(
    cut: str = "pool1",
    *,
    n: int = 2,
    victim: int = 0,
    smashed: Tensor | None = None,
    granted: frozenset[Knowledge] = frozenset({Knowledge.ARCHITECTURE}),
    attack_seed: int = 0,
) -> ServerView:
    """What the server sees of the first n test digits through an untrained victim."""
    client = head(cut, victim).eval().requires_grad_(False)
    with torch.no_grad():
        seen = client(images(n)).unsqueeze(0) if smashed is None else smashed
    return ServerView(
        smashed=seen,
        phase="inference",
        topology="vanilla",
        image_shape=SHAPE,
        n_classes=10,
        cut=cut,
        tail_name=None,
        body=nn.Identity(),
        body_outputs=None,
        cut_gradients=None,
        labels=None,
        _factory=MODELS["mnist_net"],
        _granted=granted,
        _secrets=Secrets(client_head=client),
        _attack_seed=attack_seed,
    )
