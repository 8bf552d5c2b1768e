"""What to give back of several restarts, without ever looking at the truth.

Measured on MNIST, `mnist_net`, cut pool1, 16 restarts of a joint clone: the restart with the lowest loss of its own was
up to .48 aligned SSIM behind the best one; the consensus was at or above the best in 5 of 6 sets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lowest(images: Tensor, losses: Tensor) -> Tensor:
    """The image of the restart with the lowest loss, target by target.

    Args:
        images: [R, n, channels, height, width].
        losses: [R, n]; equal over n where restarts are to be taken whole. NaN counts as the highest.

    Returns:
        [n, channels, height, width].
    """
    return images[lowest_restart(losses), torch.arange(images.shape[1], device=images.device)]


def lowest_restart(losses: Tensor) -> Tensor:
    """Index of the lowest loss along dimension 0; NaN and infinity are never preferred."""
    return torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf).argmin(0)


def consensus(images: Tensor) -> Tensor:
    """What the restarts agree on, target by target.

    Brightness, contrast and sign of a reconstruction are free, because a clone can make up for them. So every
    restart's image is standardised, its sign is turned to agree with the reference (the restart with the highest mean
    absolute correlation with the others), all are averaged, and the average gets the reference's mean and standard
    deviation. Restarts that are constant or not finite have no say.

    Args:
        images: [R, n, channels, height, width].

    Returns:
        [n, channels, height, width]; NaN where no restart is finite.
    """
    flat = images.flatten(2).transpose(0, 1)
    finite = flat.isfinite().all(2, keepdim=True)
    flat = torch.where(finite, flat, 0.0)
    mean = flat.mean(2, keepdim=True)
    centred = flat - mean
    spread = centred.square().mean(2, keepdim=True).sqrt()
    standard = torch.where(spread > 0, centred / spread, 0.0)

    correlation = standard @ standard.transpose(1, 2) / standard.shape[2]
    agreement = correlation.abs().sum(2)
    # A restart without a say must not become the reference, not even where all others are constant.
    reference = torch.where(finite.squeeze(2), agreement, -1.0).argmax(1)
    row = torch.arange(len(flat), device=flat.device)
    sign = torch.where(correlation[row, reference] < 0, -1.0, 1.0).unsqueeze(2)
    average = (sign * standard).sum(1)
    scale = average.square().mean(1, keepdim=True).sqrt()
    average = torch.where(scale > 0, average / scale, 0.0)
    result = average * spread[row, reference] + mean[row, reference]
    result = torch.where(finite.any(1), result, torch.nan)
    return result.view(images.shape[1:])
