"""A decoder trained on auxiliary images sent through the defended client: deeper is not safer against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Attack, Budget, Finding, Goal, Progress
from benchmark.errors import UserError
from benchmark.seeds import Rng, isolated
from benchmark.view import Knowledge, ServerView

FOLDS = 5
FEWEST_IMAGES = 50
QUERY_BATCH = 250
# Ridge penalties tried, as shares of the mean squared feature summed over the images.
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Above so many features their Gram matrix costs more than it gains; leading principal components stand in.
MOST_FEATURES = 2048
COMPONENTS = 1024
# A unit that is rarely on would otherwise reach tens of standard deviations on the one target that it fires for.
CLIP = 6.0


class InverseDecoder(Attack):
    """Query the client with auxiliary images, learn to undo what it sends, and decode the targets.

    The inverse network of He, Zhang and Lee, "Model Inversion Attacks Against Collaborative Inference" (ACSAC 2019),
    Algorithm 2: minimise ||D(z(x)) - x||^2 over pairs (z(x), x). Three things differ from a plain decoder:

    - Smashed data are standardised per unit over the auxiliary images, so that no fixed gain, offset or sign hides
      anything.
    - D is a linear decoder in closed form (ridge regression from all units to all pixels, which no fixed
      permutation or rotation hides from) followed by residual convolutions. These are trained on what linear
      decoders make of images they were not fitted to (cross-fitting), so that they learn to mend real errors.
    - Every draw of a random defense is fresh: the linear decoder is fitted to `draws` of them, the convolutions
      meet a new one each epoch. D learns to undo the defense along with the client, whatever it is, through
      queries alone.

    A target seen k times in the inference phase is decoded from the mean of its k smashed data, by a decoder trained
    on means of k queries. In the training phase the head moves between epochs and only the last epoch's smashed data
    are used.

    Checkpoints: the linear decoder's images (step 0), and the mended ones.
    """

    name: ClassVar[str] = "inverse_decoder"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)

    images: int = Field(2000, ge=FEWEST_IMAGES, description="auxiliary images used at most")
    draws: int = Field(8, ge=1, le=1000, description="answers to each image that the linear decoder is fitted to")
    epochs: int = Field(12, ge=1, le=10_000, description="passes of the convolutions over the auxiliary images")
    batch_size: int = Field(32, ge=1, le=10_000, description="auxiliary images a gradient step")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="peak learning rate of Adam; warm-up, then cosine")
    width: int = Field(16, ge=1, le=1024, description="channels of the convolutions")
    requery: bool = Field(True, description="ask again for every draw and epoch, so that noise is fresh")

    def knowledge(self) -> frozenset[Knowledge]:
        """Auxiliary images of the same distribution, and the right to query the defended client with them."""
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.AUXILIARY, Knowledge.QUERY})

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack the views one after the other.

        Not as lanes: convolutions over a batch fill a core already, and eight decoders stacked by vmap took longer
        (5.4 ms a decoder and step on one thread) than one after the other (4.7 ms).
        """

        def report(first: int, done: float) -> None:
            progress((first + done) / len(views))

        return [self._attack(view, partial(report, index)) for index, view in enumerate(views)]

    def _attack(self, view: ServerView, progress: Progress) -> Finding:
        client = _Client.of(view, self.images, self.requery)
        linear = _fit_linear(client, self.draws)
        coarse = linear.decode(client.targets)
        convolutions = Convolutions(view.image_shape[0], self.width, view.rng("convolutions")).to(view.device)
        losses = self._train(convolutions, client, linear, view.rng("order"), progress)
        with torch.no_grad():
            fine = convolutions(coarse)
        steps_per_epoch = -(-len(client.images) // self.batch_size)
        steps = self.epochs * steps_per_epoch
        return Finding(
            reconstructions=torch.stack([coarse, fine]),
            trace={"step": [float(steps_per_epoch * (e + 1)) for e in range(self.epochs)], "training_loss": losses},
            steps=steps,
            checkpoints=(0, steps),
        )

    def _train(
        self, convolutions: nn.Module, client: _Client, linear: _Linear, rng: Rng, progress: Progress
    ) -> list[float]:
        """Mean squared error per pixel over the auxiliary images, one value an epoch."""
        images, batches = client.images, -(-len(client.images) // self.batch_size)
        # Fused, because it keeps its state on the weights' device whatever the default device is.
        optimiser = torch.optim.Adam(convolutions.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=self.epochs * batches, pct_start=0.15
        )
        losses = []
        for epoch in range(self.epochs):
            coarse = linear.decode_unseen(client.answers())
            total = torch.zeros((), device=images.device)
            for batch in torch.split(rng.permutation(len(images), images.device), self.batch_size):
                optimiser.zero_grad()
                loss = F.mse_loss(convolutions(coarse[batch]), images[batch])
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.detach() * len(batch)
            losses.append(float(total) / len(images))
            progress((epoch + 1) / self.epochs)
        return losses


class Convolutions(nn.Module):
    """Residual convolutions at half resolution that mend an image; the identity before they are trained.

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
        height, width = images.shape[2:]
        even = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        h = F.relu(self.enter(F.pixel_unshuffle(even, 2)))
        for convolution in self.inner:
            h = h + F.relu(convolution(h))
        return images + F.pixel_shuffle(self.leave(h), 2)[:, :, :height, :width]


@dataclass(frozen=True)
class _Reader:
    """Turns smashed data into features: standardised per unit, at most `MOST_FEATURES` of them.

    Attributes:
        mean, scale: [units]; the scale is 0 for units that say nothing.
        basis: [units, features], orthonormal, or None where the units themselves are the features.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor | None = None

    @classmethod
    def of(cls, smashed: Tensor) -> _Reader:
        """Fit to smashed data of the auxiliary images, [n, ...]."""
        units = smashed.flatten(1)
        mean, deviation = units.mean(dim=0), units.std(dim=0)
        # A unit whose deviation is within float32's rounding of its mean is constant.
        says = deviation > (1e-6 * mean.abs()).clamp_min(1e-30)
        reader = cls(mean, torch.where(says, 1 / deviation, torch.zeros_like(deviation)))
        if units.shape[1] <= MOST_FEATURES:
            return reader
        features = reader(smashed)
        squares, axes = torch.linalg.eigh(features @ features.T)
        kept = squares > 1e-6 * squares[-1]
        squares, axes = squares[kept][-COMPONENTS:], axes[:, kept][:, -COMPONENTS:]
        return cls(reader.mean, reader.scale, features.T @ (axes / squares.sqrt()))

    def __call__(self, smashed: Tensor) -> Tensor:
        features = ((smashed.flatten(1) - self.mean) * self.scale).clamp(-CLIP, CLIP)
        return features if self.basis is None else features @ self.basis


class _Client:
    """The defended client, as its answers to the auxiliary images.

    Attributes:
        images: [n, channels, height, width], the auxiliary images asked about.
        targets: [targets, features], what it sent of the targets.
        changes: Whether it answers the same question differently each time.
    """

    def __init__(self, view: ServerView, images: Tensor, seen: Tensor, requery: bool) -> None:
        self.images = images
        self._view, self._seen = view, seen
        first = torch.cat(list(self._smashed()))
        self._reader = _Reader.of(first)
        self._latest = self._reader(first)
        self.targets = self._reader(seen.mean(dim=0))
        self.changes = requery and not torch.equal(self.answers_anew(), self._latest)

    @classmethod
    def of(cls, view: ServerView, most: int, requery: bool) -> _Client:
        """The client behind a view, asked about at most `most` auxiliary images."""
        images = view.auxiliary.images
        if len(images) < FEWEST_IMAGES:
            raise UserError(
                f"attack inverse_decoder: the data set's auxiliary part has {len(images)} images; "
                f"give it at least {FEWEST_IMAGES}"
            )
        chosen = view.rng("auxiliary").permutation(len(images))[:most].to(images.device)
        seen = view.smashed if view.phase == "inference" else view.smashed[-1:]
        return cls(view, images[chosen].to(view.device), seen, requery)

    def answers(self) -> Tensor:
        """Features of what it sends of the auxiliary images, [n, features]; a fresh draw where it is random."""
        if self.changes:
            self._latest = self.answers_anew()
        return self._latest

    def answers_anew(self) -> Tensor:
        """Ask, even where the answer is known."""
        return torch.cat([self._reader(smashed) for smashed in self._smashed()])

    def _smashed(self) -> Iterator[Tensor]:
        with torch.no_grad():
            for batch in torch.split(self.images, QUERY_BATCH):
                total = self._view.query(batch).detach().clone()
                for _ in range(1, len(self._seen)):
                    total += self._view.query(batch)
                yield total / len(self._seen)


@dataclass(frozen=True)
class _Linear:
    """Linear decoders: one fitted to all auxiliary images, and one for each fold of them, fitted to the others.

    Attributes:
        weight: [features, pixels].
        without: [FOLDS, features, pixels].
        fold: [n], the fold of each auxiliary image.
        mean: [channels, height, width], the mean auxiliary image.
    """

    weight: Tensor
    without: Tensor
    fold: Tensor
    mean: Tensor

    def decode(self, features: Tensor) -> Tensor:
        """Images for features ([n, features]) of images that were not fitted to."""
        return (features @ self.weight).view(-1, *self.mean.shape) + self.mean

    def decode_unseen(self, features: Tensor) -> Tensor:
        """Images for the auxiliary images' features, each by the decoder that was not fitted to it."""
        decoded = features.new_empty(len(features), self.without.shape[2])
        for fold, weight in enumerate(self.without):
            decoded[self.fold == fold] = features[self.fold == fold] @ weight
        return decoded.view(-1, *self.mean.shape) + self.mean


def _fit_linear(client: _Client, draws: int) -> _Linear:
    """Ridge regression over several draws; the penalty is the one that does best on the first fold's images."""
    # The images come in random order: folds by position are random folds.
    fold = torch.arange(len(client.images), device=client.images.device) % FOLDS
    mean = client.images.mean(dim=0)
    pixels = (client.images - mean).flatten(1)
    n_features, n_draws = client.targets.shape[1], draws if client.changes else 1
    gram = pixels.new_zeros(FOLDS, n_features, n_features)
    cross = pixels.new_zeros(FOLDS, n_features, pixels.shape[1])
    for _ in range(n_draws):
        features = client.answers()
        for index in range(FOLDS):
            rows = features[fold == index]
            gram[index] += rows.T @ rows / n_draws
            cross[index] += rows.T @ pixels[fold == index] / n_draws
    all_gram, all_cross = gram.sum(dim=0), cross.sum(dim=0)
    unit = all_gram.diagonal().mean()
    # A client that always sends the same leaves nothing to fit: any penalty then gives the mean image.
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    held_out = client.answers()[fold == 0]

    def error(penalty: float) -> float:
        weight = _ridge(all_gram - gram[0], all_cross - cross[0], penalty * unit)
        return float((held_out @ weight - pixels[fold == 0]).square().mean())

    penalty = min(PENALTIES, key=error) * unit
    without = [_ridge(all_gram - gram[index], all_cross - cross[index], penalty) for index in range(FOLDS)]
    return _Linear(_ridge(all_gram, all_cross, penalty), torch.stack(without), fold, mean)


def _ridge(gram: Tensor, cross: Tensor, penalty: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), device=gram.device))
    return torch.cholesky_solve(cross, factor)
