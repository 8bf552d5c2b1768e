"""What an attacker who knows the defense makes of k views: one target a sample, and what each unit of it counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.clients.defended_path import ClientModel
from benchmark.view import ServerView

# Noise never leaves less signal than this share; no unit counts as smaller than this part of all, lest dead ones rule.
_LEAST_SIGNAL, _LEAST_UNIT = 0.1, 1e-8


@dataclass(frozen=True)
class Observed:
    """What one view is taken for.

    Attributes:
        target: [n, ...] what the client's model is to explain.
        weights: [n, ...] what each squared error counts: 1 over the variance expected of its unit.
        level: Mean squared error of the truth: the known variance of the noise in `target`; 0 where there is none.
    """

    target: Tensor
    weights: Tensor
    level: float


def observed(view: ServerView, client: ClientModel) -> Observed:
    """Join the k views of every sample.

    Without a mask their mean is the target. Under a random mask (dropout) it is the mean of what was let through in
    any of them; a unit that was 0 in all counts as much as it is likely to have been 0 before the mask. In training the
    head moves from epoch to epoch: where its mean lies further from the last epoch than noise explains, and than noise
    is worth, the last epoch alone is the target. (mnist-5k, pool1, 5 epochs, joint, leakage of mean and last: .74 and
    .77 without noise, .57 and .45 with noise as large as the smashed data.)

    Args:
        view: What the server saw.
        client: What is known of the defense.
    """
    smashed = view.smashed.detach()
    if client.mask:
        seen = smashed != 0
        target = smashed.sum(0) / seen.sum(0).clamp(min=1)
        missing = client.mask**view.k
        empty = ~seen.any(0)
        natural = max(0.0, (float(empty.float().mean()) - missing) / (1 - missing))
        certain = torch.where(empty, natural / max(natural + (1 - natural) * missing, 1e-12), 1.0)
        noise, views = torch.zeros_like(target[0]), view.k
    else:
        noise = torch.zeros_like(smashed[0, 0]) if client.variance is None else client.variance
        # At inference nothing moves; noise on the images moves what is sent, by how much nobody knows.
        moves = view.phase == "training" and not client.random_inputs
        target, views = _joined(smashed, float(noise.mean())) if moves else (smashed.mean(0), view.k)
        certain = torch.ones_like(target)
    spread = _spread(target, certain, client.gain, noise / views)
    return Observed(target, certain / spread, float(noise.mean()) / views)


def _joined(smashed: Tensor, noise: float) -> tuple[Tensor, int]:
    """The mean of all views [k, n, ...] or the last, and of how many it is; `noise` is the variance of one view."""
    mean, last = smashed.mean(0), smashed[-1]
    by_noise = noise * (1 - 1 / len(smashed))
    drift = float((last - mean).square().mean()) - by_noise
    if drift > by_noise + 1e-6 * float(last.square().mean()):
        return last, 1
    return mean, len(smashed)


def _spread(target: Tensor, certain: Tensor, gain: Tensor | None, noise: Tensor) -> Tensor:
    """[...] variance expected of each unit: as large as its gain makes it, as observed on average, and the noise."""
    share = certain / certain.sum(0).clamp(min=1e-12)
    if len(target) == 1:
        share = certain / certain.sum().clamp(min=1e-12) * certain.numel()
    centre = (share * target).sum(0) if len(target) > 1 else (share * target).mean()
    everywhere = (share * (target - centre).square()).sum(0).mean()
    tiny = torch.finfo(target.dtype).tiny
    signal = (everywhere - noise.mean()).clamp(min=_LEAST_SIGNAL * everywhere)
    relative = torch.ones_like(noise) if gain is None else gain / gain.mean().clamp(min=tiny)
    return (signal * relative + noise).clamp(min=_LEAST_UNIT * everywhere).clamp(min=tiny)
