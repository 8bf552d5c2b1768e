"""Minimal filtering: 4x4 outputs of a 3x3 convolution out of 36 products for a pair of channels instead of 144.

F(4x4, 3x3) of Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, sections 4.1 and 4.3:
with their matrices B, G and A, a tile of outputs is A'[(G g G') * (B' d B)]A of its 6x6 inputs d and the weights g.
Each of these maps is linear, so that every gradient is the transposed maps with as few multiplications.

Places within a tile come first here, rows before columns, and channels last: each of the 36 products is one product of
matrices for all tiles and channels, and what is moved are whole runs of channels.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Outputs that a tile gives and inputs that it reads, a side.
SIDE, REACH = 4, 6
PRODUCTS = REACH**2
_WITHIN, _BEYOND = slice(SIDE), slice(SIDE, None)
# The product in the second row and column counts once in every output of its tile: that column of A' is ones.
CONSTANT = REACH + 1

_B = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_G = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
_A = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@cache
def transforms(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """B', [6, 6], for inputs; A', [4, 6], for outputs; and for weights G twice at once, [36, 9]."""
    inputs, weights, outputs = (torch.tensor(rows, dtype=dtype, device=device) for rows in (_B, _G, _A))
    return inputs, outputs, torch.kron(weights / 24, weights / 24)


class BothWays:
    """Writes `matrix` @ tile @ `matrix`' for every tile; what it works on is known from the start.

    Args:
        matrix: [p, q].
        tiles: q * q * m numbers, dense, read.
        between: p * q * m numbers, dense, overwritten.
        out: p * p * m numbers, dense, written; may be the tiles' own memory.
    """

    def __init__(self, matrix: Tensor, tiles: Tensor, between: Tensor, out: Tensor) -> None:
        p, q = matrix.shape
        self._matrix, self._each, self._tiles = matrix, matrix.expand(q, p, q), tiles.view(q, q, -1)
        self._between, self._flat, self._out = between.view(q, p, -1), between.view(q, -1), out.view(p, -1)

    def __call__(self, out: Tensor | None = None) -> None:
        """Do it; write elsewhere if told so."""
        torch.bmm(self._each, self._tiles, out=self._between)
        torch.mm(self._matrix, self._flat, out=self._out if out is None else out.view(self._out.shape))


class Inputs:
    """Between images [n, h, w, channels] and the products' inputs, [36, n * rows * columns, channels].

    Args:
        like: A tensor of the same precision and device.
        shape: n, rows and columns of tiles, channels.

    Attributes:
        padded: What is to be written before `to_products`, [n, 4 rows + 2, 4 columns + 2, channels], zeros at first.
        products: What is to be written before `to_tiles`, and where `to_products` may write.
        tiles: What `to_tiles` gives, [6, 6, n, rows, columns, channels], in the same memory.
    """

    def __init__(self, like: Tensor, shape: tuple[int, int, int, int]) -> None:
        n, rows, columns, channels = shape
        self.padded = like.new_zeros((n, SIDE * rows + 2, SIDE * columns + 2, channels))
        self._windows = windows(self.padded)
        self.tiles, between = (like.new_empty(self._windows.shape) for _ in range(2))
        self.products = self.tiles.view(PRODUCTS, -1, channels)
        matrix = transforms(like.dtype, like.device)[0]
        self._forth = BothWays(matrix, self.tiles, between, self.tiles)
        self.to_tiles = BothWays(matrix.t(), self.tiles, between, self.tiles)

    def to_products(self, out: Tensor) -> None:
        """Write to `out` the products' inputs of what is in `padded`."""
        self.tiles.copy_(self._windows)
        self._forth(out)


class Outputs:
    """Between products [36, tiles, channels] and the outputs, [4, 4, tiles * channels].

    Args:
        like: A tensor of the same precision and device.
        tiles: How many.
        channels: How many.

    Attributes:
        products: What is to be written before `to_images`, and what `to_products` gives.
        images: What is to be written before `to_products`, and what `to_images` gives.
    """

    def __init__(self, like: Tensor, tiles: int, channels: int) -> None:
        self.products = like.new_empty((PRODUCTS, tiles, channels))
        self.images = like.new_empty((SIDE, SIDE, tiles * channels))
        between = like.new_empty((SIDE * REACH * tiles * channels,))
        matrix = transforms(like.dtype, like.device)[1]
        self.to_images = BothWays(matrix, self.products, between, self.images)
        self.to_products = BothWays(matrix.t(), self.images, between, self.products)


class Folding:
    """Images [blocks, n, 4 rows + 2, 4 columns + 2, channels] as sums of what lies on each place in their tiles.

    Args:
        like: A tensor of the same precision and device.
        blocks: How many.
        shape: n, rows and columns of tiles, channels.

    Attributes:
        padded: The images, whole when each block was added.
    """

    def __init__(self, like: Tensor, blocks: int, shape: tuple[int, int, int, int]) -> None:
        n, rows, columns, channels = shape
        self.padded = like.new_empty((blocks, n, SIDE * rows + 2, SIDE * columns + 2, channels))
        self.padded[:, :, SIDE * rows :].zero_()
        self.padded[:, :, :, SIDE * columns :].zero_()
        # Within the first 4x4 of a tile nothing overlaps.
        self._parts = [(down, right) for down in (_WITHIN, _BEYOND) for right in (_WITHIN, _BEYOND)]
        places = windows(self.padded)
        self._first, *self._others = (places[:, down, right].unbind() for down, right in self._parts)

    def add(self, block: int, tiles: Tensor) -> None:
        """The block's tiles, [6, 6, n, rows, columns, channels]; each block once."""
        first, *others = (tiles[part] for part in self._parts)
        self._first[block].copy_(first)
        for places, part in zip(self._others, others, strict=True):
            places[block].add_(part)


def windows(padded: Tensor) -> Tensor:
    """The inputs of every tile, [..., 6, 6, n, rows, columns, channels].

    They overlap, and they are these images' memory: what is written to one is read in others.

    Args:
        padded: Images [..., n, 4 rows + 2, 4 columns + 2, channels].
    """
    *more, n, height, width, channels = padded.shape
    *leaps, image, down, right, channel = padded.stride()
    return padded.as_strided(
        (*more, REACH, REACH, n, height // SIDE, width // SIDE, channels),
        (*leaps, down, right, image, SIDE * down, SIDE * right, channel),
    )


def by_place(images: Tensor, side: int) -> Tensor:
    """Images [..., n, side rows, side columns, channels] by place, [..., side, side, n, rows, columns, channels]."""
    split = images.unflatten(-2, (-1, side)).unflatten(-4, (-1, side))
    places: Tensor = split.movedim((-4, -2), (-6, -5))
    return places


def filters(weight: Tensor) -> Tensor:
    """The products' weights, [L, 36, out, in], of kernels [L, out, in, 3, 3]."""
    _, _, twice = transforms(weight.dtype, weight.device)
    found: Tensor = torch.matmul(twice, weight.flatten(3).flatten(1, 2).transpose(1, 2))
    return found.view(len(weight), PRODUCTS, *weight.shape[1:3])


def kernels(gradient: Tensor) -> Tensor:
    """The gradient of kernels, [L, out, in, 3, 3], of that of the products' weights, [L, 36, out, in]."""
    _, _, twice = transforms(gradient.dtype, gradient.device)
    lanes, _, outward, inward = gradient.shape
    found: Tensor = torch.matmul(twice.t(), gradient.flatten(2))
    return found.view(lanes, 3, 3, outward, inward).permute(0, 3, 4, 1, 2)
