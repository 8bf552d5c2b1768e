"""How smashed data are read: standardised, so that no fixed gain, offset, sign or frozen noise hides anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

# Above so many features their Gram matrix costs more than it gains; leading principal components stand in.
MOST_FEATURES = 2048
COMPONENTS = 1024
MOST_MAPS = 48
# A unit that is rarely on would otherwise reach tens of standard deviations on the one target that it fires for.
CLIP = 6.0
# Elements of float64 copies made at a time.
CHUNK = 1 << 22


@dataclass(frozen=True)
class Reader:
    """Turns smashed data into features, for a dense decoder, and maps, for a local one.

    Features are units, each standardised by itself, or at most `COMPONENTS` principal components of them. Maps are
    channels: each unit centred by itself, but a channel scaled as one, so that what a convolution did stays one.

    Attributes:
        size: (height, width) of the images.
        mean, scale: [units]; the scale is 0 for units that say nothing.
        basis: [units, features], orthonormal, or None where the units themselves are the features.
        channel_scale: [channels, 1, 1], or None where the smashed data are no maps.
        mixture: [maps, channels], orthonormal, or None where the channels themselves are the maps.
    """

    size: tuple[int, int]
    mean: Tensor
    scale: Tensor
    basis: Tensor | None = None
    channel_scale: Tensor | None = None
    mixture: Tensor | None = None

    @classmethod
    def of(cls, smashed: Tensor, size: tuple[int, int]) -> Reader:
        """Fit to smashed data of known images, [n, ...]."""
        units = smashed.flatten(1)
        mean, deviation = _moments(units)
        # A unit whose deviation is within float32's rounding of its mean is constant.
        says = deviation > (2e-7 * mean.abs()).clamp_min(1e-30)
        reader = cls(size, mean, torch.where(says, 1 / deviation, torch.zeros_like(deviation)))
        if smashed.dim() == 4:
            spread = torch.where(says, deviation, torch.zeros_like(deviation)).view(smashed.shape[1:])
            scale = spread.square().mean(dim=(1, 2), keepdim=True).sqrt()
            scale = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
            reader = replace(reader, channel_scale=scale)
            reader = replace(reader, mixture=_principal_channels(reader.maps(smashed)))
        if units.shape[1] <= MOST_FEATURES:
            return reader
        features = reader.features(smashed)
        squares, axes = torch.linalg.eigh(features @ features.T)
        kept = squares > 1e-6 * squares[-1]
        squares, axes = squares[kept][-COMPONENTS:], axes[:, kept][:, -COMPONENTS:]
        return replace(reader, basis=features.T @ (axes / squares.sqrt()))

    def features(self, smashed: Tensor) -> Tensor:
        """[n, features] of smashed data, [n, ...]."""
        features = ((smashed.flatten(1) - self.mean) * self.scale).clamp(-CLIP, CLIP)
        return features if self.basis is None else features @ self.basis

    def maps(self, smashed: Tensor) -> Tensor | None:
        """[n, maps, ceil(height / 2), ceil(width / 2)] of smashed data, where these are maps."""
        if self.channel_scale is None:
            return None
        centred = (smashed - self.mean.view(smashed.shape[1:])) * self.channel_scale
        placed: Tensor = _at_half_resolution(centred.clamp(-CLIP, CLIP), self.size)
        if self.mixture is not None:
            placed = (self.mixture @ placed.flatten(2)).view(len(placed), -1, *placed.shape[2:])
        return placed


def _moments(units: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column; in float64, for units that are nearly constant."""
    columns = max(1, CHUNK // len(units))
    moments = [torch.std_mean(part.double(), dim=0) for part in units.split(columns, dim=1)]
    deviation, mean = (torch.cat(values).to(units.dtype) for values in zip(*moments, strict=True))
    return mean, deviation


def _principal_channels(maps: Tensor | None) -> Tensor | None:
    if maps is None or maps.shape[1] <= MOST_MAPS:
        return None
    rows = maps.transpose(0, 1).flatten(1)
    axes: Tensor = torch.linalg.eigh(rows @ rows.T / rows.shape[1])[1]
    return axes[:, -MOST_MAPS:].T.contiguous()


def _at_half_resolution(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps laid over an image of half the resolution of the client's.

    Strides are powers of two as a rule; what else is missing was lost at the borders, equally on both sides.
    """
    maps = F.adaptive_avg_pool2d(maps, (min(maps.shape[2], size[0]), min(maps.shape[3], size[1])))
    strides = [_stride(n, whole) for n, whole in zip(maps.shape[2:], size, strict=True)]
    fine = min(strides) == 1
    for dim, stride in enumerate(strides, start=2):
        maps = maps.repeat_interleave(stride if fine else stride // 2, dim)
    pads: list[int] = []
    for n, whole in zip(reversed(maps.shape[2:]), reversed(size), strict=True):
        half = -(-whole // 2)
        before = (whole - n) // 2 if fine else (half - n) // 2
        pads += [before, (2 * half if fine else half) - n - before]
    maps = F.pad(maps, pads)
    return F.pixel_unshuffle(maps, 2) if fine else maps


def _stride(n: int, whole: int) -> int:
    stride = 1
    while 2 * stride * n <= whole:
        stride *= 2
    return stride
