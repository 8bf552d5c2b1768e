"""Streams of random numbers, named by what they are for.

Every draw of the harness comes from a stream whose seed is a digest of its name, so that two runs that
share a name share the draw: a defended victim starts from the weights, and sees the batches, of the
undefended one at the same seed. Numbers are drawn on the CPU and then moved, so that they do not depend on
the device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator


def seed_of(*name: object) -> int:
    """Seed of the stream called `name`: the first 63 bits of the SHA-256 of its canonical JSON."""
    text = json.dumps(name, sort_keys=True, separators=(",", ":"), default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Rng:
    """One stream of random numbers, the same on every device.

    Args:
        name: What the stream is for, for example `("mnist-5k", "mnist_net", 0, "batches")`. Parts are strings,
            numbers, or tuples of them.
    """

    def __init__(self, *name: object) -> None:
        self.name = name
        self.seed = seed_of(*name)
        self._generator = torch.Generator(device="cpu").manual_seed(self.seed)

    def child(self, *name: object) -> Rng:
        """A stream of its own, named below this one; drawing from it leaves this one untouched."""
        return Rng(*self.name, *name)

    @property
    def generator(self) -> torch.Generator:
        """The CPU generator behind the stream, for libraries that take one."""
        return self._generator

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, float32, of the given shape."""
        return torch.randn(tuple(shape), generator=self._generator, device="cpu").to(device)

    def uniform(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Numbers uniform in [0, 1), float32, of the given shape."""
        return torch.rand(tuple(shape), generator=self._generator, device="cpu").to(device)

    def laplace(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Laplace numbers of location 0 and scale 1 (variance 2), float32, of the given shape."""
        # The difference of two exponentials of rate 1 is Laplace; it needs no clamp at the ends of (0, 1).
        first, second = (
            torch.empty(tuple(shape), device="cpu").exponential_(generator=self._generator) for _ in range(2)
        )
        return (first - second).to(device)

    def integers(self, high: int, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Integers uniform in [0, high), int64, of the given shape."""
        return torch.randint(high, tuple(shape), generator=self._generator, device="cpu").to(device)

    def permutation(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """A random order of 0 .. n-1, int64."""
        return torch.randperm(n, generator=self._generator, device="cpu").to(device)

    def normal_like(self, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape, type and device of `like`."""
        return self.normal(like.shape).to(like)

    def uniform_like(self, like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1) with the shape, type and device of `like`."""
        return self.uniform(like.shape).to(like)

    def laplace_like(self, like: Tensor) -> Tensor:
        """Laplace numbers of scale 1 with the shape, type and device of `like`."""
        return self.laplace(like.shape).to(like)


@contextmanager
def isolated(rng: Rng) -> Iterator[None]:
    """Seed the global CPU stream from `rng` inside the block and restore it after.

    Module constructors draw their initial weights from the global stream; this is how they get ours, on the
    CPU whatever the default device is.
    """
    state = torch.random.get_rng_state()
    torch.manual_seed(rng.seed)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.random.set_rng_state(state)
