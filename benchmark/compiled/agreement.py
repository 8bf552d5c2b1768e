"""Whether the compiled code computes what PyTorch does: seen once a process, before anything relies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.compiled.convolutions import CHANNELS, Convolved, convolved
from benchmark.compiled.library import library

# How far apart both may lie, of the largest number: some roundings of each.
_APART = {torch.float32: 2.0**-17, torch.bfloat16: 2.0**-6}


@cache
def usable() -> bool:
    """Whether there is compiled code, and its outputs and gradients on a small example are PyTorch's."""
    if library().code is None:
        return False
    first = Convolved(pictures=True, padding=(1, 1), rectified=True)
    both = [first, replace(first, pictures=False, pooled=True)]
    with torch.enable_grad():
        return _agrees(both) and _agrees([replace(how, rounded=True) for how in both])


def state() -> str:
    """Who convolves many lanes on the CPU, and if it is PyTorch, why, in a few words."""
    if usable():
        return library().state
    return f"PyTorch: {library().state}" + (", and computes something else" if library().code else "")


def by_pytorch(x: Tensor, layers: Sequence[Convolved], weights: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """The same as `convolved`, by PyTorch, in the precision of the tensors; rounded where that rounds."""
    outs = []
    for lane, out in enumerate(x):
        for how, (kernel, bias) in zip(layers, weights, strict=True):
            added = None if bias is None else _rounded(bias[lane], how)
            out, own = _rounded(out, how), _rounded(kernel[lane], how)
            out = _rounded(F.conv2d(out, own, added, stride=how.stride, padding=how.padding), how)
            out = F.relu(out) if how.rectified else out
            out = F.max_pool2d(out, 2) if how.pooled else out
        outs.append(out)
    return torch.stack(outs)


def _rounded(numbers: Tensor, how: Convolved) -> Tensor:
    return numbers.bfloat16().to(numbers.dtype) if how.rounded else numbers


def _agrees(layers: Sequence[Convolved]) -> bool:
    shapes = [(2, 1, 3, 7, 9), (2, CHANNELS, 3, 3, 3), (2, CHANNELS), (2, CHANNELS, CHANNELS, 3, 3), (2, CHANNELS)]
    # Numbers without order, so that no two outputs are equal.
    given = [
        torch.arange(math.prod(shape), dtype=torch.float64, device="cpu").mul_(step).sin_().float().view(shape)
        for step, shape in enumerate(shapes, start=7)
    ]
    x, *weights = (tensor.bfloat16().float().requires_grad_() for tensor in given)
    paired = list(zip(weights[::2], weights[1::2], strict=True))
    results = []
    for convolve in (by_pytorch, convolved):
        out = convolve(x, layers, paired)
        results.append((out, *torch.autograd.grad(out.sum(), [x, *weights])))
    apart = _APART[layers[0].dtype]
    return all(bool((a - b).abs().max() <= apart * a.abs().max()) for a, b in zip(*results, strict=True))
