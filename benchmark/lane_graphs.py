"""Forward and backward passes replayed from CUDA graphs: one launch in the place of one for every kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Recording takes about as long as so many passes: what is called less often is not worth it.
EAGER_CALLS = 10


class Replayed:
    """A function of tensors on a CUDA device that is recorded, its backward pass too, and replayed from then on.

    The first calls run as they are. A replay launches the same kernels, so results are the same, but it writes over
    what the one before gave: output and gradients have to be used before the next call. What cannot be recorded goes on
    being called.

    Args:
        function: Tensors to a tensor; it looks at no values, and is always called with tensors of the same shapes, of
            which the same require gradients.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._run: Callable[..., Any] = function
        self._eager = EAGER_CALLS

    def __call__(self, *arguments: Tensor) -> Tensor:
        """What the function gives."""
        if self._eager == 0:
            self._run = _recorded(self._run, arguments)
        self._eager -= 1
        out: Tensor = self._run(*arguments)
        return out


def _recorded(function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Callable[..., Any]:
    try:
        return torch.cuda.make_graphed_callables(function, arguments, allow_unused_input=True)
    except RuntimeError:
        return function
