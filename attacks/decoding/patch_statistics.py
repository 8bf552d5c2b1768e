"""What smashed data tell of the client that sent them: mean, covariance and values of their small patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 3
# Above so many entries of a patch their covariances cost more than they tell; smaller patches stand in.
MOST_ENTRIES = 1024
# Patches of a batch that are looked at, about.
MOST_PATCHES = 8192
QUANTILES = 64
# Variances below which nothing is told apart, as shares of the largest; float32 sums resolve no less than the last.
FLOORS = tuple(10 ** (-k / 2) for k in range(2, 11))
FOLDS = 5
# A floor this much less likely than the best, in nats a direction, is as good and asks for less.
SLACK = 0.1


@dataclass(frozen=True)
class PatchStatistics:
    """Of the patches of smashed data, pooled over samples and places: ten samples hold a thousand of them.

    Attributes:
        mean: [entries].
        covariance: [entries, entries], or [entries] where there are too many.
        quantiles: [QUANTILES, channels], of the values of each channel by itself.
    """

    mean: Tensor
    covariance: Tensor
    quantiles: Tensor

    @classmethod
    def of(cls, smashed: Tensor, stride: int = 1, start: tuple[int, int] = (0, 0)) -> PatchStatistics:
        """Of smashed data, [n, ...].

        Args:
            smashed: Maps, [n, channels, height, width], or vectors.
            stride: Between the patches of maps.
            start: The first patch's place.
        """
        rows = _rows(smashed, stride, start).flatten(0, 1)
        channels = smashed.shape[1] if smashed.dim() == 4 else rows.shape[1]
        ordered = rows.unflatten(1, (channels, -1))[:, :, 0].sort(dim=0).values
        at = (torch.arange(QUANTILES, device=rows.device) + 0.5) / QUANTILES * len(ordered)
        return cls(*_moments(rows), ordered[at.long()])


@dataclass(frozen=True)
class Observed:
    """Statistics of what a client sent, which another's are held against.

    Attributes:
        mean: [entries].
        axes: [entries, entries], directions of a patch, orthonormal; None for the entries themselves.
        variances: [entries], along the axes.
        quantiles: As in `PatchStatistics`.
        floor: Variance below which directions are not told apart at the end, as a share of the largest.
    """

    mean: Tensor
    axes: Tensor | None
    variances: Tensor
    quantiles: Tensor
    floor: float

    @classmethod
    def of(cls, smashed: Tensor, samples: int) -> Observed:
        """Of smashed data, [views * samples, ...], the views of a sample `samples` rows apart."""
        found = PatchStatistics.of(smashed)
        axes, variances = _axes(found.covariance)
        return cls(found.mean, axes, variances, found.quantiles, held_out_floor(smashed, samples))

    def mismatch(self, other: PatchStatistics, done: float) -> Tensor:
        """How far another's statistics are from these, 0 where they agree.

        Twice the relative entropy of N(m', C' + f) to N(m, C + f), a direction (Kullback, 1959), and the distance of
        the channels' quantile functions (Wasserstein's, of order 1), in standard deviations.

        Several finite filters of one image are determined by it up to a scale, because what they send lies in a
        subspace that no other filters keep to (Moulines et al., "Subspace methods for the blind identification of
        multichannel FIR filters", 1995; Harikumar and Bresler, "Perfect blind restoration of images blurred by
        multiple filters", 1999, for images). Differences of covariances do not see that subspace, relative entropy
        does: to leave it costs 1/f. So f falls from a tenth of the largest variance to `floor`.

        Args:
            other: Of as many entries.
            done: Share of the way that f has fallen, 0 to 1.
        """
        # Never so small that rounding of a mean far from 0 would count.
        unit = torch.maximum(self.variances.max(), 1e-12 * self.mean.square().max()).clamp_min(1e-20)
        floor = unit * FLOORS[0] * (self.floor / FLOORS[0]) ** done
        scale = (self.variances + floor).rsqrt()
        offset, least = other.mean - self.mean, floor * scale.square()
        if self.axes is not None:
            whiten = self.axes * scale
            offset = offset @ whiten
            spread = whiten.T @ other.covariance @ whiten + least.diag()
            trace = spread.diagonal().sum()
            # What float32 may miss of a matrix that is far too large must not cost it its root.
            safe = spread + 1e-6 * trace.detach() * torch.eye(len(spread), device=spread.device)
            volume = 2 * torch.linalg.cholesky(safe).diagonal().log().sum()
        else:
            spread = other.covariance * scale.square() + least
            offset, trace, volume = offset * scale, spread.sum(), spread.log().sum()
        entropy: Tensor = (trace - len(offset) - volume + offset.square().sum()) / len(offset)
        deviation = torch.maximum(self.variances.mean(), floor).sqrt()
        distance: Tensor = (other.quantiles - self.quantiles).abs().mean() / deviation
        return entropy + distance


def held_out_floor(smashed: Tensor, samples: int) -> float:
    """The largest of `FLOORS` with which a normal distribution tells samples best that it was not fitted to.

    Leave-one-out likelihood, as in Hoffbeck and Landgrebe, "Covariance matrix estimation and classification with
    limited training data" (1996), by samples. A subspace that all keep to makes every lower floor likelier; one that
    few patches happen to lie in does not.

    Args:
        smashed: [views * samples, ...], the views of a sample `samples` rows apart.
        samples: Different ones; a single one says nothing, and gets the highest floor.
    """
    if samples < 2:
        return FLOORS[0]
    rows = _rows(smashed)
    fold = torch.arange(len(rows), device=rows.device) % samples % FOLDS
    surprise = torch.zeros(len(FLOORS), dtype=torch.float64, device=rows.device)
    for held_out in range(min(samples, FOLDS)):
        mean, covariance = _moments(rows[fold != held_out].flatten(0, 1))
        axes, variances = _axes(covariance)
        rest = rows[fold == held_out].flatten(0, 1) - mean
        energy = (rest if axes is None else rest @ axes).square().mean(dim=0)
        for index, floor in enumerate(FLOORS):
            raised = variances + floor * variances.max().clamp_min(1e-20)
            surprise[index] += (energy / raised + raised.log()).mean() / min(samples, FOLDS)
    good = (surprise <= surprise.min() + SLACK).tolist()
    return FLOORS[good.index(True)]


def patch_stride(smashed: Tensor) -> int:
    """Between patches of smashed data, [n, ...], so that there are about `MOST_PATCHES`."""
    if smashed.dim() != 4:
        return 1
    side, stride = _side(smashed), 1
    rows, columns = (n - side + 1 for n in smashed.shape[2:])
    while len(smashed) * -(-rows // stride) * -(-columns // stride) > MOST_PATCHES and stride < min(rows, columns):
        stride += 1
    return stride


def _rows(smashed: Tensor, stride: int = 1, start: tuple[int, int] = (0, 0)) -> Tensor:
    """[n, patches, entries]; the entries of a channel stand together."""
    if smashed.dim() != 4:
        return smashed.flatten(1).unsqueeze(1)
    maps = smashed[:, :, start[0] :, start[1] :]
    return F.unfold(maps, _side(smashed), stride=stride).transpose(1, 2)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    mean = rows.mean(dim=0)
    centred = rows - mean
    wide = rows.shape[1] > MOST_ENTRIES
    return mean, centred.square().mean(dim=0) if wide else centred.T @ centred / len(rows)


def _axes(covariance: Tensor) -> tuple[Tensor | None, Tensor]:
    if covariance.dim() == 1:
        return None, covariance
    variances, axes = torch.linalg.eigh(covariance.double())
    return axes.to(covariance.dtype), variances.clamp_min(0).to(covariance.dtype)


def _side(maps: Tensor) -> int:
    fitting = (side for side in range(PATCH, 1, -1) if maps.shape[1] * side**2 <= MOST_ENTRIES)
    side: int = min(next(fitting, 1), *maps.shape[2:])
    return side
