"""3x3 convolutions of many lanes with a quarter of the multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from benchmark.lane_layers import Convolution, PerSample, Stacked, Stage
from benchmark.lane_patches import pair, positive
from benchmark.lane_pooling import halves, largest_of_four, routed
from benchmark.lane_tiles import CONSTANT, SIDE, Folding, Inputs, Outputs, by_place, filters, kernels

# Of fewer channels the transforms take what the products save.
_CHANNELS = 16
# Tiles in one product: with fewer the weights are read too often, with more what is between leaves the cache.
_TOGETHER = 64
# Tiles of a lane below which four times as many weights as in the kernels are not read often enough to pay.
_FEWEST = 64
# Rounding of an output over that of a number times the sum of the weights' sizes, for inputs of order one.
_ROUNDING = 8


class Prepared(NamedTuple):
    """What depends on the weights: the products' weights, [L, 36, out, in], and what differs less is a tie, a lane."""

    filters: Tensor
    ties: list[float]


@dataclass
class Weights:
    """Kernels [L, out, in, 3, 3], bias [L, out] or None, and what they are made into as long as they are fixed."""

    kernel: Tensor
    bias: Tensor | None
    prepared: Prepared | None = None


class WinogradConvolution(Stage):
    """`nn.Conv2d` with kernels of 3x3, with the ReLU and the 2x2 max pooling behind it, by minimal filtering.

    What comes out has its channels last in memory. Where there are too few tiles for it to pay, and on a GPU, whose
    libraries choose for themselves, the layers run as they would otherwise.

    Args:
        block: The convolution and what is behind it, as in `fits`.
        weight, bias: The names of its weights.
    """

    def __init__(self, block: Sequence[nn.Module], weight: str, bias: str | None) -> None:
        conv, *behind = block
        assert isinstance(conv, nn.Conv2d)
        self.weight, self.bias = weight, bias
        self.plain: list[Stage] = [Convolution(conv, weight, bias), *map(PerSample, behind)]
        self.form = _Form(
            padding=pair(conv.padding),
            rectified=any(type(layer) is nn.ReLU for layer in behind),
            pooled=any(type(layer) is nn.MaxPool2d for layer in behind),
        )

    @staticmethod
    def fits(block: Sequence[nn.Module]) -> bool:
        """Whether these are a convolution, a ReLU or none, a pooling or none, that can be run so."""
        if not block:
            return False
        conv, *behind = block
        if behind and type(behind[0]) is nn.ReLU:
            behind = behind[1:]
        return (
            type(conv) is nn.Conv2d
            and conv.kernel_size == (3, 3)
            and conv.stride == (1, 1)
            and conv.dilation == (1, 1)
            and conv.groups == 1
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and min(conv.in_channels, conv.out_channels) >= _CHANNELS
            and (not behind or (len(behind) == 1 and halves(behind[0])))
        )

    def weights(self, stacked: Stacked) -> Weights:
        """As they are: whether to transform them depends on the inputs."""
        return Weights(stacked[self.weight], None if self.bias is None else stacked[self.bias])

    def combine(self, weights: Weights, seen: Tensor) -> Tensor:
        """[L, n, in, h, w] to [L, n, out, h', w']."""
        rows, columns = self.form.tiles(*seen.shape[3:])
        if seen.device.type != "cpu" or seen.shape[1] * rows * columns < _FEWEST:
            stacked = {self.weight: weights.kernel}
            if self.bias is not None and weights.bias is not None:
                stacked[self.bias] = weights.bias
            for stage in self.plain:
                seen = stage.combine(stage.weights(stacked), stage.inputs(seen))
            return seen
        prepared = weights.prepared or self._prepared(weights.kernel.detach())
        if not weights.kernel.requires_grad:
            weights.prepared = prepared
        out: Tensor = _Filtered.apply(seen, weights.kernel, weights.bias, prepared, self.form)
        return out

    def _prepared(self, kernel: Tensor) -> Prepared:
        # A norm by `torch.linalg` takes six times as long.
        sizes = kernel.abs().flatten(2).sum(2).amax(1) if self.form.pooled else kernel.new_zeros(0)
        return Prepared(filters(kernel), (sizes * _ROUNDING * torch.finfo(kernel.dtype).eps).tolist())


@dataclass(frozen=True)
class _Form:
    padding: tuple[int, int]
    rectified: bool
    pooled: bool

    @property
    def stride(self) -> int:
        """Of what is behind the convolution."""
        return 2 if self.pooled else 1

    def outputs(self, height: int, width: int) -> tuple[int, int]:
        """Height and width behind the convolution."""
        return height + 2 * self.padding[0] - 2, width + 2 * self.padding[1] - 2

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles; the last ones may reach beyond the outputs."""
        high, wide = self.outputs(height, width)
        return -(-high // SIDE), -(-wide // SIDE)


@dataclass(frozen=True)
class _Cut:
    """A batch of lanes in blocks of a lane's images.

    Attributes:
        blocks: How many, lane by lane.
        per_lane: Blocks of a lane.
        inward: Images, rows and columns of tiles and channels of a block.
        outward: Channels that come out.
        side: Outputs of a tile behind the pooling, a side.
    """

    blocks: int
    per_lane: int
    inward: tuple[int, int, int, int]
    outward: int
    side: int

    @classmethod
    def of(cls, x: Tensor, kernel: Tensor, form: _Form) -> _Cut:
        """As many images in a block as divide a lane and give no more tiles than go together well."""
        lanes, n, inward, height, width = x.shape
        rows, columns = form.tiles(height, width)
        images = max(size for size in range(1, n + 1) if n % size == 0 and (size - 1) * rows * columns < _TOGETHER)
        per_lane = n // images
        return cls(lanes * per_lane, per_lane, (images, rows, columns, inward), kernel.shape[1], SIDE // form.stride)

    @property
    def tiles(self) -> int:
        """Of a block."""
        images, rows, columns, _ = self.inward
        return images * rows * columns

    @property
    def out(self) -> tuple[int, int, int, int, int]:
        """What comes out, channels last, with all of the last tiles."""
        images, rows, columns, _ = self.inward
        return self.blocks, images, self.side * rows, self.side * columns, self.outward


class _Filtered(torch.autograd.Function):
    """Images [L, n, in, h, w] through a convolution and what is behind it, one block of a lane's images at a time.

    Of a block everything is small, so views are made before the loops: one takes as long as some thousand sums.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, prepared: Prepared, form: _Form) -> Tensor:
        cut = _Cut.of(x, kernel, form)
        inputs, outputs = Inputs(x, cut.inward), Outputs(x, cut.tiles, cut.outward)
        weights = prepared.filters
        seen, saved = (inputs.products,) * cut.blocks, None
        if ctx.needs_input_grad[1]:
            saved = weights.new_empty((cut.blocks, *inputs.products.shape))
            seen = saved.unbind()
        out = x.new_empty(cut.out)
        differences = x.new_empty((cut.blocks if form.pooled else 0, 3, 2, 2, cut.tiles * cut.outward))
        (top, left), (height, width) = form.padding, x.shape[3:]
        padded = inputs.padded[:, top : top + height, left : left + width]
        places, apart, columns = (
            by_place(out, cut.side).unbind(),
            differences.unbind(),
            weights.transpose(2, 3).unbind(),
        )
        four, made = _four(outputs.images), outputs.images.view(-1, *places[0].shape[1:])
        biases, constant = () if bias is None else bias.unbind(), outputs.products[CONSTANT]
        for block, image in enumerate(x.permute(0, 1, 3, 4, 2).reshape(cut.blocks, -1, height, width, x.shape[2])):
            lane, place = block // cut.per_lane, places[block]
            padded.copy_(image)
            inputs.to_products(seen[block])
            torch.bmm(seen[block], columns[lane], out=outputs.products)
            if biases:
                constant.add_(biases[lane])
            outputs.to_images()
            if form.pooled:
                made = largest_of_four(*four, apart[block]).view(place.shape)
            if form.rectified:
                torch.clamp_min(made, 0, out=place)
            else:
                place.copy_(made)
        ctx.save_for_backward(saved, weights, out if form.rectified else None, differences)
        ctx.cut, ctx.form, ctx.ties, ctx.shape = cut, form, prepared.ties, x.shape
        height, width = form.outputs(height, width)
        whole: Tensor = out.unflatten(0, (len(x), -1)).flatten(1, 2)
        return whole[:, :, : height // form.stride, : width // form.stride].permute(0, 1, 4, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cut, form, (lanes, _, _, height, width) = ctx.cut, ctx.form, ctx.shape
        saved, weights, out, differences = ctx.saved_tensors
        of_x, of_kernel, of_bias = ctx.needs_input_grad[:3]
        gradient = gradients[0].permute(0, 1, 3, 4, 2)
        high, wide = cut.out[2] - gradient.shape[2], cut.out[3] - gradient.shape[3]
        if high or wide:
            gradient = F.pad(gradient, (0, 0, 0, wide, 0, high))
        inputs, outputs = Inputs(gradient, cut.inward), Outputs(gradient, cut.tiles, cut.outward)
        places = by_place(gradient.reshape(cut.out), cut.side).unbind()
        positives = by_place(out, cut.side).unbind() if form.rectified else ()
        given = (gradient.new_empty(places[0].shape) if form.pooled else outputs.images).view(places[0].shape)
        windows, four = given.view(cut.side, cut.side, -1), _four(outputs.images)
        apart, rows, constant = differences.unbind(), weights.unbind(), outputs.products[CONSTANT]
        across = outputs.products.transpose(1, 2)
        folding = Folding(gradient, cut.blocks, cut.inward) if of_x else None
        of_filters = gradient.new_empty((lanes if of_kernel else 0, *weights.shape[1:]))
        biases = gradient.new_zeros((lanes if of_bias else 0, cut.outward))
        for block, place in enumerate(places):
            lane = block // cut.per_lane
            if form.rectified:
                positive(place, positives[block], 0.0, out=given)
            else:
                given.copy_(place)
            if form.pooled:
                routed(windows, apart[block], four, ctx.ties[lane])
            outputs.to_products()
            if of_bias:
                biases[lane] += constant.sum(0)
            if of_kernel:
                of_filters[lane].baddbmm_(across, saved[block], beta=min(1, block % cut.per_lane))
            if folding is not None:
                torch.bmm(outputs.products, rows[lane], out=inputs.products)
                inputs.to_tiles()
                folding.add(block, inputs.tiles)
        of_images = None
        if folding is not None:
            top, left = form.padding
            whole = folding.padded.unflatten(0, (lanes, -1)).flatten(1, 2)
            of_images = whole[:, :, top : top + height, left : left + width].permute(0, 1, 4, 2, 3)
        return of_images, kernels(of_filters) if of_kernel else None, biases if of_bias else None, None, None


def _four(tile: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What lies under the windows of [4, 4, m]: upper left, upper right, lower left, lower right, [2, 2, m] each."""
    windows = tile.view(2, 2, 2, 2, -1)
    return windows[:, 0, :, 0], windows[:, 0, :, 1], windows[:, 1, :, 0], windows[:, 1, :, 1]
