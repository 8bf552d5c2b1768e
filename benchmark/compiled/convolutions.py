"""Convolutions of many lanes by the compiled code, with what is behind them, as a function with a gradient.

Between convolutions channels lie last in memory, and numbers are in float32 or in bfloat16, where they stay rounded
from one to the next; products are in float32 either way. A lane goes through all convolutions before the next begins,
so that what is between them stays in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from benchmark.compiled.steps import Call, Form, OneLane, Part, each_lane

# Numbers of channels are multiples of this, except those of pictures.
CHANNELS = 16
# Numbers in a patch of a picture at most, as in `narrow.c`.
MOST = 128


@dataclass(frozen=True)
class Convolved:
    """A convolution and what is behind it, but for the weights.

    Attributes:
        pictures: Whether it is one of pictures, which have any number of channels and are always in float32; no pooling
            is behind it. Else it is of 3x3 and stride 1, by minimal filtering.
        stride: Down and to the right.
        padding: Zeros above and below, on the left and on the right.
        rectified: Whether a ReLU is behind it.
        pooled: Whether a maximum over 2x2 is behind that.
        rounded: Whether images are in bfloat16, and weights rounded so before they are used.
    """

    pictures: bool = False
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    rectified: bool = False
    pooled: bool = False
    rounded: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of what comes out."""
        return torch.bfloat16 if self.rounded else torch.float32

    def outputs(self, height: int, width: int, kernel: Tensor) -> tuple[int, int]:
        """Height and width of what comes out, of images and of a kernel [..., kh, kw]."""
        sizes = zip((height, width), self.padding, kernel.shape[-2:], strict=True)
        high, wide = ((size + 2 * around - reach) // self.stride + 1 for size, around, reach in sizes)
        return (high // 2, wide // 2) if self.pooled else (high, wide)


def compiles(how: Convolved, kernel: Tensor) -> bool:
    """Whether the compiled code can do this with a lane's kernels, [out, in, kh, kw], float32 on the CPU."""
    outward, inward, high, wide = kernel.shape
    if kernel.device.type != "cpu" or kernel.dtype != torch.float32 or outward % CHANNELS or min(how.padding) < 0:
        return False
    if how.pictures:
        return not how.pooled and inward * high * wide <= MOST and how.stride > 0
    return (high, wide, how.stride) == (3, 3, 1) and inward % CHANNELS == 0


def convolved(x: Tensor, layers: Sequence[Convolved], weights: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Images through convolutions, one behind the other.

    Args:
        x: [L, n, in, h, w], float32.
        layers: At least one; only the first may be one of pictures; all rounded or none.
        weights: Kernels [L, out, in, kh, kw] and bias [L, out] or None, float32, of each.

    Returns:
        [L, n, out, h', w'], float32.

    Raises:
        ValueError: Shapes, types or devices are others than these, or an image is smaller than its kernel.
    """
    _check(x, layers, weights)
    if not layers[0].pictures:
        x = x.permute(0, 1, 3, 4, 2).to(layers[0].dtype)
    dense = [(kernel.contiguous(), None if bias is None else bias.contiguous()) for kernel, bias in weights]
    out: Tensor = _Convolved.apply(x.contiguous(), layers, *(tensor for both in dense for tensor in both))
    return out


def _check(x: Tensor, layers: Sequence[Convolved], weights: Sequence[tuple[Tensor, Tensor | None]]) -> None:
    """What the compiled code takes for granted: it is given addresses."""
    tensors = [x, *(tensor for both in weights for tensor in both if tensor is not None)]
    if x.dim() != 5 or not all(z.device.type == "cpu" and z.dtype == torch.float32 for z in tensors):
        raise ValueError("images should be [L, n, in, h, w], and they and all weights float32 numbers on the CPU")
    lanes, images, channels, height, width = x.shape
    if not (lanes and images):
        raise ValueError(f"there should be lanes and images, and there are {lanes} and {images}")
    for at, (how, (kernel, bias)) in enumerate(zip(layers, weights, strict=True)):
        outward, *sides = kernel.shape[1], *kernel.shape[3:]
        if kernel.shape[:1] + kernel.shape[2:3] != (lanes, channels) or kernel.dim() != 5:
            raise ValueError(f"kernels of shape {tuple(kernel.shape)} are not for {lanes} lanes of {channels} channels")
        if bias is not None and bias.shape != kernel.shape[:2]:
            raise ValueError(f"a bias of shape {tuple(bias.shape)} is not for kernels of shape {tuple(kernel.shape)}")
        if not compiles(how, kernel[0]) or (at and how.pictures) or how.rounded != layers[0].rounded:
            raise ValueError(f"{how} with kernels of shape {tuple(kernel.shape)} is not one that was compiled")
        channels, (height, width) = outward, how.outputs(height, width, kernel)
        if min(height, width) < 1:
            raise ValueError(f"images are smaller than a kernel of {sides[0]}x{sides[1]} or the pooling behind it")


class _Convolved(torch.autograd.Function):
    """`convolved` of pictures [L, n, in, h, w], or of images as they lie between convolutions, [L, n, h, w, in]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Convolved], *weights: Tensor | None) -> Tensor:
        kernels, biases, learns = weights[::2], weights[1::2], ctx.needs_input_grad[2::2]
        lanes, images, *rest = x.shape
        inward, height, width = rest if layers[0].pictures else (rest[2], *rest[:2])
        forms, inputs, routes, calls = [], [], [], []
        given: Part = x
        for at, (how, kernel, bias) in enumerate(zip(layers, kernels, biases, strict=True)):
            assert kernel is not None
            outward, (high, wide) = kernel.shape[1], kernel.shape[3:]
            form = Form(
                *(images, height, width, inward, outward, high, wide, how.stride, *how.padding),
                *(how.rectified, how.pooled, how.rounded),
            )
            inputs.append(given if learns[at] else None)
            inward, (height, width) = outward, how.outputs(height, width, kernel)
            shape, kept = (lanes, images, height, width, inward), None
            made: Part = OneLane(math.prod(shape[1:]), how.dtype)
            if any(ctx.needs_input_grad) and (how.rectified or how.pooled):
                kept = x.new_empty(shape, dtype=torch.uint8)
            # The next convolution reads it again only for the gradient of its kernels.
            if at + 1 < len(layers) and learns[at + 1]:
                made = x.new_empty(shape, dtype=how.dtype)
            calls.append(Call("narrow" if how.pictures else "filtered", form, (given, kernel, bias, made, kept)))
            forms.append(form)
            routes.append(kept)
            given = made
        out = x.new_empty((lanes, images, inward, height, width), dtype=torch.float32)
        each_lane([*calls, Call("channels_first", forms[-1], (given, out))], lanes)
        ctx.save_for_backward(*inputs, *kernels, *routes)
        ctx.layers, ctx.forms, ctx.given = layers, forms, (x.shape, x.dtype)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count, saved, needed = len(ctx.layers), ctx.saved_tensors, ctx.needs_input_grad
        inputs, kernels, routes = saved[:count], saved[count : 2 * count], saved[2 * count :]
        lanes, *made = gradients[0].shape
        found: list[Tensor | None] = [None] * len(needed)
        gradient: Part = OneLane(math.prod(made), ctx.layers[-1].dtype)
        calls = [Call("channels_last", ctx.forms[-1], (gradient, gradients[0].contiguous()))]
        for at in reversed(range(count)):
            how, form, kernel, weights = ctx.layers[at], ctx.forms[at], kernels[at], 2 + 2 * at
            of_given: Part = None
            if at and any(needed[:weights]):
                of_given = OneLane(form.images * form.height * form.width * kernel.shape[2], how.dtype)
            elif needed[0]:
                shape, dtype = ctx.given
                of_given = found[0] = kernel.new_empty(shape, dtype=dtype)
            if needed[weights]:
                found[weights] = torch.empty_like(kernel)
            if needed[weights + 1]:
                found[weights + 1] = kernel.new_empty(kernel.shape[:2])
            parts = (gradient, routes[at], inputs[at], kernel, of_given, *found[weights : weights + 2])
            calls.append(Call("narrow_back" if how.pictures else "filtered_back", form, parts))
            if of_given is None:
                break
            gradient = of_given
        each_lane(calls, lanes)
        return tuple(found)
