"""Whether a reconstruction picks its own image out of a line-up of images that were not attacked.

This is the image identifiability precision of Yin, Mallya, Vahdat, Alvarez, Kautz and Molchanov (2021, "See through
gradients: image batch recovery via GradInversion"), the share of reconstructions whose nearest neighbour is the
original, with a distance that forgives brightness, contrast and sign as the alignment of every other score does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.errors import PluginError, UserError

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.seeds import Rng

CANDIDATES = 100
# Shares that differ by less are a tie; and an image that explains another but for this much is its duplicate.
TIE = 1e-9
DUPLICATE = 1e-6


@dataclass(frozen=True)
class Lineup:
    """The images that a reconstruction of each target is compared with.

    Attributes:
        truth: The targets, [n, channels, height, width], float64, on the CPU.
        others: Images of the same part of the data, [m, channels, height, width], float64, on the CPU.
        admitted: [n, m], bool: which of the others stand beside which target, as many for each.
        candidates: Images in each target's line-up, itself included.
    """

    truth: Tensor
    others: Tensor
    admitted: Tensor
    candidates: int

    @property
    def chance(self) -> float:
        """How often a guess identifies a target, in (0, 1]."""
        return 1 / self.candidates


def lineup(truth: Tensor, part: Part, rng: Rng, candidates: int = CANDIDATES) -> Lineup:
    """Draw the line-up of every target.

    A target's own duplicates, what differs from it by no more than the distance forgives, never stand beside it: no
    reconstruction could be told to show the one and not the other. Another target may.

    Args:
        truth: The targets, [n, channels, height, width], in [0, 1].
        part: What they were taken from, any device.
        rng: Draws the others; named by the data alone, so that every attack meets the same line-up.
        candidates: Images in a line-up where the part is large enough; else as many as every target can have.

    Raises:
        UserError: There is no target.
    """
    if len(truth) == 0:
        raise UserError("identification needs at least one target; choose some")
    # As many again, because targets and their duplicates are struck out.
    drawn = rng.permutation(len(part))[: 2 * candidates].to(part.images.device)
    targets, others = _exact(truth), _exact(part.images[drawn])
    eligible = explained_variance(targets, others) < 1 - DUPLICATE
    size = min(candidates - 1, int(eligible.sum(dim=1).min()))
    admitted = eligible & (eligible.cumsum(dim=1) <= size)
    needed = admitted.any(dim=0)
    return Lineup(targets, others[needed], admitted[:, needed], size + 1)


def identification_scores(images: Tensor, among: Lineup) -> dict[str, list[float]]:
    """Whether each reconstruction's nearest candidate is the target, and how near the target comes.

    The nearest candidate is the one whose variance the reconstruction explains best; see `explained_variance`.

    Args:
        images: Reconstructions, [n, channels, height, width], any finite range and device.
        among: The targets' line-up.

    Returns:
        `identified`: 1 where the target alone is nearest, 1/t where it shares the first place with t - 1 others, else
        0. A constant image ties with all and gets chance.
        `identification_rank`: place of the target, 1 (nearest) to the number of candidates; ties share the middle.

    Raises:
        PluginError: The reconstructions have another shape than the targets, or are not finite.
    """
    if images.shape != among.truth.shape:
        raise PluginError(
            f"the attack returned reconstructions of shape {tuple(images.shape)} for targets of shape "
            f"{tuple(among.truth.shape)}; return one image a target"
        )
    shown = _exact(images)
    if not torch.isfinite(shown).all():
        raise PluginError("the attack returned NaN or infinity in its reconstructions; return finite images")
    truth = _centred(among.truth)
    own = _share(torch.einsum("ncp,ncp->nc", _unit(shown), truth), truth).unsqueeze(1)
    others = explained_variance(shown, among.others)
    nearer = ((others > own + TIE) & among.admitted).sum(dim=1)
    tied = (((others - own).abs() <= TIE) & among.admitted).sum(dim=1)
    identified = torch.where(nearer == 0, 1 / (1 + tied.double()), 0.0)
    return {"identified": identified.tolist(), "identification_rank": (1 + nearer + tied.double() / 2).tolist()}


def explained_variance(images: Tensor, candidates: Tensor) -> Tensor:
    """Share of each candidate's variance that each image explains after its best gain and offset a channel, [n, m].

    One minus the residual of the least-squares alignment over the candidate's variance. With r_c the correlation of
    image and candidate in channel c, and v_c the candidate's variance there, it is sum_c(r_c^2 v_c) / sum_c(v_c), in
    [0, 1], the same for a negative and for any other brightness or contrast of the image. 0 where image or candidate
    is constant.

    Args:
        images: [n, channels, height, width], float64, finite.
        candidates: [m, channels, height, width], float64, finite.
    """
    centred = _centred(candidates)
    return _share(torch.einsum("ncp,mcp->nmc", _unit(images), centred), centred)


def _share(projected: Tensor, centred: Tensor) -> Tensor:
    whole = centred.square().sum(dim=(1, 2))
    return torch.where(whole > 0, projected.square().sum(dim=-1) / _positive(whole), 0.0)


def _unit(images: Tensor) -> Tensor:
    """Each channel centred and of length 1, or 0 where it is constant to within float32's rounding."""
    # Scaled first: a finite reconstruction may be so large, or so small, that its square is not.
    x = images.flatten(2)
    x = x / _positive(x.abs().amax(dim=2, keepdim=True))
    x = x - x.mean(dim=2, keepdim=True)
    spread = x.abs().amax(dim=2, keepdim=True)
    x = torch.where(spread > torch.finfo(torch.float32).eps, x / _positive(spread), 0.0)
    return x / _positive(x.square().sum(dim=2, keepdim=True).sqrt())


def _centred(images: Tensor) -> Tensor:
    x = images.flatten(2)
    x = x - x.mean(dim=2, keepdim=True)
    flat = x.abs().amax(dim=2, keepdim=True) <= torch.finfo(torch.float32).eps
    return torch.where(flat, 0.0, x)


def _positive(values: Tensor) -> Tensor:
    # A divisor that leaves zeros as they are.
    return torch.where(values > 0, values, 1.0)


def _exact(images: Tensor) -> Tensor:
    return images.detach().to("cpu", torch.float64)
