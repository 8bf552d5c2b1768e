"""The library's convolutions of an attack's steps and nothing else: no engine that leaves them to it gets past this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import registry
from benchmark.models import network, split
from benchmark.seeds import Rng
from benchmark.speed.processes import Turns

# A convolution; rounded, with L lanes side by side: its input [1, L * in, h, w], weights [L * out, in, k, k] and the
# gradient of its output [1, L * out, h', w'].
Placed = tuple[nn.Conv2d, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Convolutions:
    """Those of as many steps on images as on weights, in bfloat16 with channels last, counted in image-steps.

    Attributes:
        model: The name of a model whose head has no padding by name.
        cut: Name of the head's last module.
        image_shape: Channels, height, width.
        lanes: Images at once, each with weights of its own.
    """

    model: str
    cut: str
    image_shape: tuple[int, int, int]
    lanes: int

    def run(self, turns: Turns) -> None:
        """Convolve until nobody waits for it any more."""
        layers = self.layers()
        turns.ready()
        while True:
            for wants_image in (True, False):
                step(layers, self.lanes, wants_image)
                turns.did(self.lanes)

    def layers(self) -> list[Placed]:
        """The head's convolutions, first to last.

        Raises:
            UserError: There is no such model or cut.
        """
        factory = registry.load_model(registry.reference("model", self.model))
        head = split(network(factory, self.image_shape, 10, Rng("convolutions")), self.cut).head
        rng, x, found = Rng("convolutions"), torch.zeros(1, *self.image_shape, device="cpu"), []
        with torch.no_grad():
            for layer in head.children():
                given, x = x, layer(x)
                if isinstance(layer, nn.Conv2d):
                    shapes = [(1, self.lanes * z.shape[1], *z.shape[2:]) for z in (given, x)]
                    sent, gradient = (_rounded(rng.child(*shape).normal(shape)) for shape in shapes)
                    found.append((layer, sent, _rounded(layer.weight.repeat(self.lanes, 1, 1, 1)), gradient))
        return found


def step(layers: Sequence[Placed], lanes: int, wants_image: bool) -> None:
    """The convolutions of one step, forward and backward.

    Args:
        layers: First to last.
        lanes: That lie side by side in them.
        wants_image: Whether the step is on the images; else on the weights, and the first input gets no gradient.
    """
    for layer, x, weight, _ in layers:
        F.conv2d(x, weight, None, layer.stride, _padding(layer), layer.dilation, lanes * layer.groups)
    for at, (layer, x, weight, gradient) in reversed(list(enumerate(layers))):
        wanted = [wants_image or at > 0, not wants_image, not wants_image]
        around = [*layer.stride], _padding(layer), [*layer.dilation], False, [0, 0], lanes * layer.groups
        torch.ops.aten.convolution_backward(gradient, x, weight, [len(weight)], *around, wanted)


def _padding(layer: nn.Conv2d) -> list[int]:
    assert not isinstance(layer.padding, str)
    return [*layer.padding]


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
