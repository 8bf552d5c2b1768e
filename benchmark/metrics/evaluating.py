"""Networks as they predict: in evaluation mode, and in a form of the same network that predicts fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.lane_layers import hooked
from benchmark.lane_pooling import PooledConvolution

# Layers to which it is the same how what they are given lies in memory.
_ANY_LAYOUT = {
    nn.Sequential,
    nn.Conv2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.BatchNorm2d,
    nn.Flatten,
    nn.Linear,
    nn.Dropout,
}


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode inside the block and every part of them back into its own mode after."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in before:
        part.training = False
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


@contextmanager
def evaluating_fast(*modules: nn.Module) -> Iterator[None]:
    """The same, with equal outputs up to rounding in less time; weights must stay as they are inside the block.

    Weights are laid out so that convolutions give what pooling is three times as fast on, where every layer of all
    modules does the same in any layout: one that somebody wrote may count on the usual one. There, a convolution of
    few channels and the 2x2 pooling behind it are one convolution of stride 2 and a maximum of four.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluating(*modules))
        if all(type(part) in _ANY_LAYOUT for module in modules for part in module.modules()):
            for module in modules:
                stack.enter_context(_channels_last(module))
                stack.enter_context(_pooling_at_once(module))
        yield


@contextmanager
def _channels_last(module: nn.Module) -> Iterator[None]:
    weights = [weight for weight in module.parameters() if weight.dim() == 4]
    before = [weight.data for weight in weights]
    for weight in weights:
        # A copy: with one channel weights lie in both ways at once, and would not be told to lie in this one.
        weight.data = torch.empty_like(weight.data, memory_format=torch.channels_last).copy_(weight.data)
    try:
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data


@contextmanager
def _pooling_at_once(module: nn.Module) -> Iterator[None]:
    # Whoever has its `forward` replaced, a block around this one for instance, means it to be called.
    if type(module) is not nn.Sequential or "forward" in vars(module):
        yield
        return
    steps = _steps(list(module))

    def forward(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    # In its own dictionary, so that whoever calls the module finds it, hooks included.
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]


def _steps(layers: Sequence[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    steps: list[Callable[[Tensor], Tensor]] = []
    while layers:
        first, *others = layers
        rectified = bool(others) and type(others[0]) is nn.ReLU
        block = layers[: 3 if rectified else 2]
        if not any(map(hooked, block)) and PooledConvolution.fits(first, block[-1]):
            assert isinstance(first, nn.Conv2d)
            steps.append(_pooled_convolution(first, rectified))
            layers = layers[len(block) :]
        else:
            steps.append(first)
            layers = others
    return steps


def _pooled_convolution(module: nn.Conv2d, rectified: bool) -> Callable[[Tensor], Tensor]:
    names = {"weight": module.weight} | ({} if module.bias is None else {"bias": module.bias})
    stage = PooledConvolution(module, "weight", "bias" if "bias" in names else None, rectified)
    kernels, bias, _ = stage.weights({name: value.detach().unsqueeze(0) for name, value in names.items()})
    weight = kernels.view(-1, module.in_channels, *stage.kernel)
    return partial(_pooled, weight=weight, bias=bias, padding=module.padding, rectified=rectified)


def _pooled(
    x: Tensor, *, weight: Tensor, bias: Tensor | None, padding: str | tuple[int, ...], rectified: bool
) -> Tensor:
    largest = F.conv2d(x, weight, stride=2, padding=padding).unflatten(1, (4, -1)).amax(1)
    if bias is not None:
        largest = largest + bias.unsqueeze(3)
    return torch.relu(largest) if rectified else largest
