"""The optimisation behind inversion attacks: find images, and weights where unknown, that explain smashed data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.clients.defended_path import DefendedPath
from benchmark.errors import PluginError
from benchmark.lane_layers import Precision
from benchmark.lanes import Lanes, adam

TRACE_POINTS = 50
# What standardised squared errors count beside the prior in the first and in the last round: a strong prior finds the
# shapes, a weak one the details. Of what was tried on mnist-5k, pool1, joint, this loses least on any head.
FIRST_GAIN, LAST_GAIN = 0.003, 0.1


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
        precision: What convolutions' products are computed in; see `Lanes`.
    """

    rounds: int
    input_steps: int
    model_steps: int
    input_lr: float
    model_lr: float
    tv: float
    l2: float
    checkpoints: int
    precision: Precision = "float32"

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
        stopped: The images when their feature loss first was at the known noise level, [L, n, ...], or None where
            none was to be stopped at; what never got there is as it ended.
        stopped_at: The step of it, [L, n].
    """

    images: Tensor
    losses: Tensor
    steps: list[int]
    trace: Tensor
    stopped: Tensor | None = None
    stopped_at: Tensor | None = None

    @classmethod
    def joined(cls, outcomes: Sequence[Outcome], behind: int = 0) -> Outcome:
        """Outcomes of the same schedule side by side, along the dimension `behind` the lanes' (0: the lanes)."""
        stopped = [outcome.stopped for outcome in outcomes if outcome.stopped is not None]
        stopped_at = [outcome.stopped_at for outcome in outcomes if outcome.stopped_at is not None]
        return cls(
            torch.cat([outcome.images for outcome in outcomes], 1 + behind),
            torch.cat([outcome.losses for outcome in outcomes], 1 + behind),
            outcomes[0].steps,
            torch.cat([outcome.trace for outcome in outcomes], 1 + behind),
            torch.cat(stopped, behind) if stopped else None,
            torch.cat(stopped_at, behind) if stopped_at else None,
        )

    def changed(self, change: Callable[[Tensor, int], Tensor]) -> Outcome:
        """Every tensor changed; `change` is told which dimension the lanes are in."""
        return Outcome(
            change(self.images, 1),
            change(self.losses, 1),
            self.steps,
            change(self.trace, 1),
            None if self.stopped is None else change(self.stopped, 0),
            None if self.stopped_at is None else change(self.stopped_at, 0),
        )

    def kept(self, schedule: Schedule) -> tuple[list[Tensor], list[int]]:
        """Images [L, n, ...] of every checkpoint, and the step of each.

        Those that reached the known noise level come first, under their median step, so that what comes last is where
        the optimisation ended.
        """
        images, steps = list(self.images), schedule.kept_steps()
        if self.stopped is not None and self.stopped_at is not None and bool(self.stopped_at.min() < schedule.steps):
            return [self.stopped, *images], [int(self.stopped_at.median()), *steps]
        return images, steps

    def lanes(self, start: int, end: int) -> Outcome:
        """The lanes from `start` to before `end`."""
        return self.changed(lambda part, lane: part.narrow(lane, start, end - start))


@dataclass(frozen=True)
class Defended:
    """What an attacker who knows the defense adds to the objective of L lanes.

    Attributes:
        path: The client's hooks around the head.
        weights: What each squared error counts, [L, n, ...], times a gain that rises from round to round.
        levels: Feature loss of the truth, [L, 1]: the variance of the noise in the targets, 0 where there is none; or
            None where no level is to be stopped at.
    """

    path: DefendedPath
    weights: Tensor
    levels: Tensor | None


def alternate(
    lanes: Lanes,
    start: Tensor,
    targets: Tensor,
    schedule: Schedule,
    progress: Callable[[float], None],
    defended: Defended | None = None,
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
        defended: With it f(x) is what the client sends under its defense, and the squared errors are weighted; the
            losses told stay unweighted.

    Raises:
        PluginError: The heads' outputs have another shape than the targets.
    """
    targets = targets.detach()
    x = start.detach().clone(memory_format=torch.contiguous_format)
    features = targets[0, 0].numel()
    path = None if defended is None else defended.path
    _check(lanes, x, targets)
    image_adam = adam([x], schedule.input_lr)
    unknown = list(lanes.parameters.values())
    weight_adam = adam(unknown, schedule.model_lr) if unknown and schedule.model_steps else None

    every = max(1, schedule.steps // TRACE_POINTS)
    done, steps, trace = 0, list[int](), list[Tensor]()
    images, losses = list[Tensor](), list[Tensor]()
    kept = set(schedule.kept_rounds())

    weights: Tensor | None = None
    levels = None if defended is None else defended.levels
    stopped, stopped_at = x.detach().clone(), torch.full(x.shape[:2], -1, device=x.device)

    def residual(z: Tensor) -> Tensor:
        difference = z.detach() - targets
        if done % every == 0:
            steps.append(done)
            trace.append(_mean_square(difference))
            if levels is not None:
                stop(trace[-1] <= levels)
        return difference if weights is None else difference.mul_(weights)

    def stop(reached: Tensor) -> None:
        now = reached & (stopped_at < 0)
        stopped_at[now] = done
        stopped[now] = x.detach()[now]

    with torch.enable_grad():
        for number in range(1, schedule.rounds + 1):
            weights = None if defended is None else defended.weights * _gain(number, schedule.rounds)
            with_weights = lanes.frozen()
            x.requires_grad_(True)
            for _ in range(schedule.input_steps):
                z = with_weights(x) if path is None else path.activations(with_weights(path.inputs(x)))
                (gradient,) = torch.autograd.grad(z, x, residual(z).mul_(2 / features))
                # The fused optimiser takes the gradient's memory to lie as the image's does.
                x.grad = _add_prior_gradient(gradient.contiguous(), x.detach(), schedule.tv, schedule.l2)
                image_adam.step()
                done += 1
            x.requires_grad_(False)
            if weight_adam is not None:
                with_images = lanes.at(x if path is None else path.inputs(x))
                for step in range(schedule.model_steps):
                    if path is not None and path.inputs_vary and step:
                        with_images = lanes.at(path.inputs(x))
                    z = with_images() if path is None else path.activations(with_images())
                    upstream = residual(z).mul_(2 / (features * x.shape[1]))
                    gradients = torch.autograd.grad(z, unknown, upstream, materialize_grads=True)
                    for weight, weight_gradient in zip(unknown, gradients, strict=True):
                        weight.grad = weight_gradient.contiguous()
                    weight_adam.step()
                    done += 1
            if number in kept:
                images.append(x.detach().clone())
                with torch.no_grad():
                    z = lanes(x) if path is None else path.activations(lanes(path.inputs(x)))
                    losses.append(_mean_square(z - targets))
            progress(number / schedule.rounds)
    if levels is not None:
        stop(stopped_at < 0)
    return Outcome(
        torch.stack(images),
        torch.stack(losses),
        [*steps, done],
        torch.stack([*trace, losses[-1]]),
        None if levels is None else stopped,
        None if levels is None else stopped_at,
    )


def _check(lanes: Lanes, x: Tensor, targets: Tensor) -> None:
    with torch.no_grad():
        made = lanes(x).shape
    if made != targets.shape:
        raise PluginError(
            f"the clone gives smashed data of shape {tuple(made[2:])} a sample, the victim sent "
            f"{tuple(targets.shape[2:])}; the view's architecture must be the client's"
        )


def _gain(number: int, rounds: int) -> float:
    done = (number - 1) / (rounds - 1) if rounds > 1 else 1.0
    return float(FIRST_GAIN * (LAST_GAIN / FIRST_GAIN) ** done)


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
