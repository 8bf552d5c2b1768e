"""What to give back of several restarts, without ever looking at the truth.

Measured on MNIST, `mnist_net`, cut pool1, 16 restarts of a joint clone: the restart with the lowest loss of its own was
up to .48 aligned SSIM behind the best one; the consensus was at or above the best in 5 of 6 sets.

A restart may go astray altogether: a unit of its clone that is 0 on all images has no gradient and stays at 0. Four
restarts on a head trained on negatives, one of them astray: .73 with it, .83 without.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the median restart's correlation with the reference, what a restart must reach to have a say.
LEAST_AGREEMENT = 0.5


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
    deviation. Restarts that are constant or not finite have no say, and those that agree with the reference less than
    half as well as the median of the others do.

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
    with_reference = correlation[row, reference]
    sign = torch.where(with_reference < 0, -1.0, 1.0).unsqueeze(2)
    others = with_reference.abs().scatter(1, reference.unsqueeze(1), torch.nan)
    # One restart alone has no others: NaN is below nothing.
    typical = others.nanmedian(1, keepdim=True).values
    astray = (with_reference.abs() < LEAST_AGREEMENT * typical).unsqueeze(2)
    average = torch.where(astray, 0.0, sign * standard).sum(1)
    scale = average.square().mean(1, keepdim=True).sqrt()
    average = torch.where(scale > 0, average / scale, 0.0)
    result = average * spread[row, reference] + mean[row, reference]
    result = torch.where(finite.any(1), result, torch.nan)
    return result.view(images.shape[1:])
