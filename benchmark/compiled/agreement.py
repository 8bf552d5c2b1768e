"""Whether the compiled code computes what PyTorch does: seen once a process, before anything relies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.compiled.convolutions import CHANNELS, Convolved, convolved
from benchmark.compiled.library import library

# How far apart both may lie, of the largest number: some roundings, of numbers that filtering makes ten times as large.
_APART = {torch.float32: 2.0**-13, torch.bfloat16: 2.0**-6}


@cache
def usable() -> bool:
    """Whether there is compiled code, and its outputs and gradients on small examples are PyTorch's."""
    if library().code is None:
        return False
    # Whoever asks first may be in any mode.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        try:
            return all(_agrees(how, rounded) for how in _EXAMPLES for rounded in (False, True))
        except RuntimeError:
            return False


def in_use() -> bool:
    """Whether a head of this process was one for compiled code, and there was some; asking compiles nothing."""
    return bool(usable.cache_info().currsize) and usable()


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


@dataclass(frozen=True)
class _Example:
    """Two lanes of images [n, channels, height, width], and each convolution with the number of its outputs."""

    shape: tuple[int, int, int, int]
    layers: tuple[tuple[Convolved, int], ...]


_PICTURES = Convolved(pictures=True, padding=(1, 1), rectified=True)
_EXAMPLES = (
    _Example((1, 3, 7, 9), ((_PICTURES, CHANNELS), (Convolved(padding=(1, 1), rectified=True, pooled=True), CHANNELS))),
    # All widths of products, several images, more tiles than go together. Large, it has outputs near zero and near each
    # other, and neither ReLU nor pooling, which would have their gradients chosen by rounding.
    _Example(
        (2, 3, 33, 45),
        ((Convolved(pictures=True, stride=2, padding=(2, 1)), CHANNELS), (Convolved(padding=(1, 2)), 7 * CHANNELS)),
    ),
)


def _agrees(example: _Example, rounded: bool) -> bool:
    layers = [replace(how, rounded=rounded) for how, _ in example.layers]
    shapes: list[tuple[int, ...]] = [(2, *example.shape)]
    channels = example.shape[1]
    for _, outward in example.layers:
        shapes += [(2, outward, channels, 3, 3), (2, outward)]
        channels = outward
    x, *weights = (_disordered(shape, 7 + at).requires_grad_() for at, shape in enumerate(shapes))
    paired = list(zip(weights[::2], weights[1::2], strict=True))
    results = []
    for convolve in (by_pytorch, convolved):
        out = convolve(x, layers, paired)
        upstream = _disordered(out.shape, 5)
        results.append((out, *torch.autograd.grad(out, [x, *weights], upstream)))
    apart = _APART[layers[0].dtype]
    return all(bool((a - b).abs().max() <= apart * a.abs().max()) for a, b in zip(*results, strict=True))


def _disordered(shape: Sequence[int], step: int) -> Tensor:
    """Numbers that are the same everywhere, of 8 bits, and of which hardly any two are equal."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64, device="cpu").mul_(step).sin_().view(*shape)
    return numbers.float().bfloat16().float()
