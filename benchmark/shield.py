"""What a plug-in may do to its process by accident, undone: global random streams, settings of torch, a fork."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmark.seeds import Rng

# numpy's legacy global stream takes seeds of 32 bits.
_NUMPY_SEEDS = 2**32


@contextmanager
def shielded(rng: Rng) -> Iterator[None]:
    """Run code of a plug-in inside the block so that it meets what it always meets, and leaves nothing behind.

    The global random streams of torch, numpy and Python are seeded from `rng`: what draws from them is the same however
    many cells ran before. After the block, whatever happened in it, they stand where they stood, and so do torch's
    number of threads, default type, default device, gradient mode, precision of matrix products and choice of
    deterministic algorithms, and the working folder.

    A process that the block has forked ends with the block: it must not go on as a second worker.

    Args:
        rng: Gives the seed; its own stream is not drawn from.
    """
    here, before = os.getpid(), _State.now()
    try:
        random.seed(rng.seed)
        np.random.seed(rng.seed % _NUMPY_SEEDS)  # noqa: NPY002 - plug-ins that draw from it are what this is for
        torch.manual_seed(rng.seed)
        yield
    finally:
        if os.getpid() != here:
            os._exit(0)
        before.restore()


@dataclass(frozen=True)
class _State:
    python: tuple[Any, ...]
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor]
    threads: int
    dtype: torch.dtype
    device: torch.device
    gradients: bool
    precision: str
    deterministic: bool
    warn_only: bool
    folder: str | None

    @classmethod
    def now(cls) -> _State:
        return cls(
            random.getstate(),
            np.random.get_state(),  # noqa: NPY002
            torch.random.get_rng_state(),
            torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            _folder(),
        )

    def restore(self) -> None:
        # The device first: with another default, what follows could make its tensors there.
        if torch.get_default_device() != self.device:
            # Where none was chosen torch says cpu; choosing that would slow down every call.
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.gradients)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.random.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.folder is not None:
            os.chdir(self.folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        # Somebody has removed it: there is nothing to come back to.
        return None
