"""The optimisation behind inversion attacks: find images, and weights where unknown, that explain smashed data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.clients.defended_path import DefendedPath
from attacks.inversion.leaving import at_rest, behind
from attacks.inversion.logbook import Logbook
from attacks.inversion.outcome import Outcome
from attacks.inversion.schedule import Schedule
from benchmark.errors import PluginError
from benchmark.lanes import Lanes, adam

# What standardised squared errors count beside the prior in the first and in the last round: a strong prior finds the
# shapes, a weak one the details. Of what was tried on mnist-5k, pool1, joint, this loses least on any head.
FIRST_GAIN, LAST_GAIN = 0.003, 0.1


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

    def part(self, lanes: list[int], targets: Tensor) -> Defended:
        """The same for some of the lanes, whose targets are given."""
        levels = None if self.levels is None else self.levels[lanes]
        return Defended(self.path.part(lanes, targets), self.weights[lanes], levels)


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
    _check(lanes, start, targets)
    logbook = Logbook(start, schedule)
    running = _Running(lanes, start, targets, schedule, defended, logbook)
    kept = set(schedule.kept_rounds())
    for number in range(1, schedule.rounds + 1):
        running.round(number)
        if number in kept or number == schedule.halved_after:
            logbook.note(running.x, running.losses())
        if number in kept:
            logbook.keep()
        progress(number / schedule.rounds)
        if number < schedule.rounds and running.some_leave(number) and not len(running.x):
            progress(1.0)
            break
    running.write_back()
    return logbook.outcome(noise_known=defended is not None and defended.levels is not None)


class _Running:
    """The lanes that are still there, what is optimised in them, and their optimisers."""

    def __init__(
        self,
        lanes: Lanes,
        start: Tensor,
        targets: Tensor,
        schedule: Schedule,
        defended: Defended | None,
        logbook: Logbook,
    ) -> None:
        self.all, self.lanes, self.targets = lanes, lanes, targets
        self.schedule, self.defended, self.logbook = schedule, defended, logbook
        self.features = targets[0, 0].numel()
        self.weights: Tensor | None = None
        self.x = start.detach().clone(memory_format=torch.contiguous_format)
        self.image_adam = adam([self.x], schedule.input_lr)
        self.unknown = list(lanes.parameters.values())
        learns = bool(self.unknown) and schedule.model_steps > 0
        self.weight_adam = adam(self.unknown, schedule.model_lr) if learns else None

    def round(self, number: int) -> None:
        """All steps on the images, then all on the weights."""
        if self.defended is not None:
            self.weights = self.defended.weights * _gain(number, self.schedule.rounds)
        with torch.enable_grad():
            self._image_steps()
            if self.weight_adam is not None:
                self._weight_steps(self.weight_adam)

    def losses(self) -> Tensor:
        """Feature loss of every image as it is now, [l, n]."""
        with torch.no_grad():
            z = self.lanes(self._inputs())
            return _mean_square(self._sent(z) - self.targets)

    def some_leave(self, number: int) -> bool:
        """Let go of lanes that have fallen behind or are at rest after this round; whether there were any."""
        at, logbook = self.logbook.at, self.logbook
        leaving = torch.zeros(len(at), dtype=torch.bool, device=at.device)
        if number == self.schedule.halved_after:
            fallen = behind(logbook.losses.mean(1), self.schedule.rivals)
            logbook.behind |= fallen.unsqueeze(1)
            leaving |= fallen[at]
        if self.schedule.ends_at_rest and logbook.trace:
            leaving |= at_rest(torch.stack(logbook.trace)[:, at].mean(2))
        if not bool(leaving.any()):
            return False
        logbook.note(self.x, self.losses())
        self._go_on_with((~leaving).nonzero().flatten())
        return True

    def write_back(self) -> None:
        """Give the lanes that all began with the weights of those that are still there."""
        if self.lanes is not self.all:
            with torch.no_grad():
                for name, weight in self.lanes.parameters.items():
                    self.all.parameters[name][self.logbook.at] = weight

    def _go_on_with(self, stay: Tensor) -> None:
        self.write_back()
        self.logbook.at = self.logbook.at[stay]
        before = [self.x, *self.unknown]
        self.x, self.targets = self.x[stay], self.targets[stay]
        chosen = stay.tolist()
        if not chosen:
            self.lanes = self.all
            return
        if self.defended is not None:
            self.defended = self.defended.part(chosen, self.targets)
        self.lanes = Lanes([self.lanes.head(lane) for lane in chosen], self.schedule.precision)
        self.unknown = list(self.lanes.parameters.values())
        self.image_adam = _narrowed(self.image_adam, before[:1], [self.x], stay)
        if self.weight_adam is not None:
            self.weight_adam = _narrowed(self.weight_adam, before[1:], self.unknown, stay)

    def _image_steps(self) -> None:
        schedule, x, path = self.schedule, self.x, self._path
        with_weights = self.lanes.frozen()
        x.requires_grad_(True)
        for _ in range(schedule.input_steps):
            z = with_weights(x) if path is None else path.activations(with_weights(path.inputs(x)))
            (gradient,) = torch.autograd.grad(z, x, self._residual(z).mul_(2 / self.features))
            # The fused optimiser takes the gradient's memory to lie as the image's does.
            x.grad = _add_prior_gradient(gradient.contiguous(), x.detach(), schedule.tv, schedule.l2)
            self.image_adam.step()
        x.requires_grad_(False)

    def _weight_steps(self, weight_adam: torch.optim.Adam) -> None:
        path, scale = self._path, 2 / (self.features * self.x.shape[1])
        with_images = self.lanes.at(self._inputs())
        for step in range(self.schedule.model_steps):
            if path is not None and path.inputs_vary and step:
                with_images = self.lanes.at(path.inputs(self.x))
            z = self._sent(with_images())
            gradients = torch.autograd.grad(z, self.unknown, self._residual(z).mul_(scale), materialize_grads=True)
            for weight, gradient in zip(self.unknown, gradients, strict=True):
                weight.grad = gradient.contiguous()
            weight_adam.step()

    def _residual(self, z: Tensor) -> Tensor:
        difference = z.detach() - self.targets
        if self.logbook.step():
            levels = None if self.defended is None else self.defended.levels
            self.logbook.point(self.x, _mean_square(difference), levels)
        return difference if self.weights is None else difference.mul_(self.weights)

    @property
    def _path(self) -> DefendedPath | None:
        return None if self.defended is None else self.defended.path

    def _inputs(self) -> Tensor:
        return self.x if self._path is None else self._path.inputs(self.x)

    def _sent(self, z: Tensor) -> Tensor:
        return z if self._path is None else self._path.activations(z)


def _narrowed(optimiser: torch.optim.Adam, before: list[Tensor], after: list[Tensor], stay: Tensor) -> torch.optim.Adam:
    """The same optimiser for the lanes that stay, `after` in the place of `before`, with its state."""
    narrowed = adam(after, optimiser.param_groups[0]["lr"])
    for whole, part in zip(before, after, strict=True):
        state = optimiser.state[whole].items()
        narrowed.state[part] = {name: value[stay] if value.dim() else value.clone() for name, value in state}
    return narrowed


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
