"""What mends an image decoded from smashed data: a local linear map in closed form, then convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.seeds import Rng, isolated

# 3x3 patches that the local linear map is fitted to, at most, and images whose patches are made at a time.
PATCHES = 1 << 16
PART = 50
# As a share of the mean squared input.
PENALTY = 1e-4


@dataclass(frozen=True)
class LocalLinear:
    """Adds to an image what is linear in the 3x3 neighbourhood of a place at half resolution, in image and maps.

    An image sent as it is, or through one convolution, needs no more. It has few weights and is fitted to many places:
    convolutions that read the maps too learned the auxiliary images by heart (leakage .840 instead of .865 at pool2).

    Attributes:
        weight: [4 channels, 4 channels + maps, 3, 3].
        bias: [4 channels].
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, images: Tensor, maps: Tensor | None, truth: Tensor) -> LocalLinear:
        """Least squares from `images` and `maps` to `truth`.

        Args:
            images, truth: [n, channels, height, width].
            maps: [n, maps, ceil(height / 2), ceil(width / 2)], or None where there are none.
        """
        seen, wanted = _seen(images, maps), F.pixel_unshuffle(_even(truth - images), 2)
        size, places = 9 * seen.shape[1] + 1, seen.shape[2] * seen.shape[3]
        gram, cross = seen.new_zeros(size, size), seen.new_zeros(size, wanted.shape[1])
        used = max(1, PATCHES // places)
        for inputs, outputs in zip(seen[:used].split(PART), wanted[:used].split(PART), strict=True):
            rows = F.unfold(inputs, 3, padding=1).transpose(0, 1).flatten(1)
            rows = torch.cat([rows, rows.new_ones(1, rows.shape[1])])
            gram += rows @ rows.T
            cross += rows @ outputs.transpose(0, 1).flatten(1).T
        penalty = PENALTY * gram.diagonal().mean() * torch.eye(size, device=seen.device)
        weight = torch.linalg.solve(gram + penalty, cross).T
        return cls(weight[:, :-1].reshape(wanted.shape[1], seen.shape[1], 3, 3), weight[:, -1])

    def __call__(self, images: Tensor, maps: Tensor | None) -> Tensor:
        """Mend images; shapes as for `fit`."""
        changes = []
        for start in range(0, len(images), PART):
            part = slice(start, start + PART)
            seen = _seen(images[part], None if maps is None else maps[part])
            changes.append(F.conv2d(seen, self.weight, self.bias, padding=1))
        change = torch.cat(changes)
        return images + F.pixel_shuffle(change, 2)[:, :, : images.shape[2], : images.shape[3]]


class Mender(nn.Module):
    """Residual convolutions at half resolution; the identity before they are trained.

    Args:
        channels: Of the images.
        width: Of the convolutions.
        rng: Names the initial weights.
    """

    def __init__(self, channels: int, width: int, rng: Rng) -> None:
        super().__init__()
        with isolated(rng):
            self.enter = nn.Conv2d(4 * channels, width, 3, padding=1)
            self.inner = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
            self.leave = nn.Conv2d(width, 4 * channels, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Mend images ([n, channels, height, width]); same shape."""
        h = F.relu(self.enter(F.pixel_unshuffle(_even(images), 2)))
        for convolution in self.inner:
            h = h + F.relu(convolution(h))
        return images + F.pixel_shuffle(self.leave(h), 2)[:, :, : images.shape[2], : images.shape[3]]


def _seen(images: Tensor, maps: Tensor | None) -> Tensor:
    halved = F.pixel_unshuffle(_even(images), 2)
    return halved if maps is None else torch.cat([halved, maps], dim=1)


def _even(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    return F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
