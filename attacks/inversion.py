"""The optimisation behind inversion attacks: find images, and weights where unknown, that explain smashed data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import PluginError
from benchmark.lanes import Lanes, adam

TRACE_POINTS = 50


@dataclass(frozen=True)
class Schedule:
    """How long to optimise, and what.

    Attributes:
        rounds: Alternations, at least 1.
        input_steps: Steps on the images in each round.
        model_steps: Steps on the weights in each round; 0 leaves them as they are.
        input_lr: Learning rate on the images.
        model_lr: Learning rate on the weights.
        tv: Weight of the squared total variation.
        l2: Weight of the mean squared pixel.
        checkpoints: How many images of each target are kept, at equally spaced ends of rounds, the last included.
    """

    rounds: int
    input_steps: int
    model_steps: int
    input_lr: float
    model_lr: float
    tv: float
    l2: float
    checkpoints: int

    @property
    def steps(self) -> int:
        """Gradient steps in all."""
        return self.rounds * (self.input_steps + self.model_steps)

    def kept_rounds(self) -> list[int]:
        """The rounds, counted from 1, at whose ends images are kept; ascending, the last one always among them."""
        return sorted({max(1, round(self.rounds * i / self.checkpoints)) for i in range(1, self.checkpoints + 1)})

    def kept_steps(self) -> list[int]:
        """The same, in gradient steps."""
        return [kept * (self.input_steps + self.model_steps) for kept in self.kept_rounds()]


@dataclass(frozen=True)
class Outcome:
    """Where an optimisation of L lanes with n images each went.

    Attributes:
        images: [checkpoints, L, n, channels, height, width].
        losses: Feature loss (mean squared error of the smashed data) of each image there, [checkpoints, L, n].
        steps: Gradient steps done at each point of the trace.
        trace: Feature loss at each of them, [points, L, n].
    """

    images: Tensor
    losses: Tensor
    steps: list[int]
    trace: Tensor


def alternate(
    lanes: Lanes, start: Tensor, targets: Tensor, schedule: Schedule, progress: Callable[[float], None]
) -> Outcome:
    """Alternate steps on the images and on the weights, in all lanes at once; changes the weights of `lanes`.

    Image steps minimise, for every image by itself, MSE(f(x), z) + tv * TV(x) + l2 * mean(x^2), where TV sums the
    squared differences of neighbours down and across, each direction divided by the number of its differences.
    Weight steps minimise the mean of MSE(f(x), z) over the lane's images. Objective and schedule: Erdogan, Kupcu
    and Cicek, "UnSplit", WPES 2022; the l2 term is in their code only. Optimiser states are fresh.

    Args:
        lanes: L heads to start from.
        start: Images to start from, [L, n, channels, height, width].
        targets: Smashed data, [L, n, ...].
        schedule: See `Schedule`.
        progress: Called with the fraction done, 0 to 1, once a round.

    Raises:
        PluginError: The heads' outputs have another shape than the targets.
    """
    targets = targets.detach()
    x = start.detach().clone(memory_format=torch.contiguous_format)
    features = targets[0, 0].numel()
    _check(lanes, x, targets)
    image_adam = adam([x], schedule.input_lr)
    weights = list(lanes.parameters.values())
    weight_adam = adam(weights, schedule.model_lr) if weights and schedule.model_steps else None

    every = max(1, schedule.steps // TRACE_POINTS)
    done, steps, trace = 0, list[int](), list[Tensor]()
    images, losses = list[Tensor](), list[Tensor]()
    kept = set(schedule.kept_rounds())

    def residual(z: Tensor) -> Tensor:
        difference = z.detach() - targets
        if done % every == 0:
            steps.append(done)
            trace.append(_mean_square(difference))
        return difference

    with torch.enable_grad():
        for number in range(1, schedule.rounds + 1):
            with_weights = lanes.frozen()
            x.requires_grad_(True)
            for _ in range(schedule.input_steps):
                z = with_weights(x)
                (gradient,) = torch.autograd.grad(z, x, residual(z).mul_(2 / features))
                # The fused optimiser takes the gradient's memory to lie as the image's does.
                x.grad = _add_prior_gradient(gradient.contiguous(), x.detach(), schedule.tv, schedule.l2)
                image_adam.step()
                done += 1
            x.requires_grad_(False)
            if weight_adam is not None:
                with_images = lanes.at(x)
                for _ in range(schedule.model_steps):
                    z = with_images()
                    upstream = residual(z).mul_(2 / (features * x.shape[1]))
                    gradients = torch.autograd.grad(z, weights, upstream, materialize_grads=True)
                    for weight, weight_gradient in zip(weights, gradients, strict=True):
                        weight.grad = weight_gradient.contiguous()
                    weight_adam.step()
                    done += 1
            if number in kept:
                images.append(x.detach().clone())
                with torch.no_grad():
                    losses.append(_mean_square(lanes(x) - targets))
            progress(number / schedule.rounds)
    return Outcome(torch.stack(images), torch.stack(losses), [*steps, done], torch.stack([*trace, losses[-1]]))


def _check(lanes: Lanes, x: Tensor, targets: Tensor) -> None:
    with torch.no_grad():
        made = lanes(x).shape
    if made != targets.shape:
        raise PluginError(
            f"the clone gives smashed data of shape {tuple(made[2:])} a sample, the victim sent "
            f"{tuple(targets.shape[2:])}; the view's architecture must be the client's"
        )


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().flatten(2).mean(2)


def _add_prior_gradient(gradient: Tensor, x: Tensor, tv: float, l2: float) -> Tensor:
    """Add to `gradient`, in place, that of tv * TV(x) + l2 * mean(x^2), image by image; `x` is [L, n, c, h, w]."""
    channels, height, width = x.shape[2:]
    for dimension, count in ((3, channels * (height - 1) * width), (4, channels * height * (width - 1))):
        if tv and count:
            slope = x.diff(dim=dimension).mul_(2 * tv / count)
            gradient.narrow(dimension, 1, slope.shape[dimension]).add_(slope)
            gradient.narrow(dimension, 0, slope.shape[dimension]).sub_(slope)
    if l2:
        gradient.add_(x, alpha=2 * l2 / (channels * height * width))
    return gradient
