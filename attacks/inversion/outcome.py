"""Where an optimisation went: the images at its checkpoints, the trace of its losses, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.inversion.schedule import Schedule


@dataclass(frozen=True)
class Outcome:
    """Where an optimisation of L lanes with n images each went. A lane that left early stays as it was then.

    Attributes:
        images: [checkpoints, L, n, channels, height, width].
        losses: Feature loss (mean squared error of the smashed data) of each image there, [checkpoints, L, n].
        steps: Gradient steps done at each point of the trace.
        trace: Feature loss at each of them, [points, L, n].
        spent: Gradient steps done for each image, [L, n].
        behind: Whether the lane was left behind by its rivals, [L, n]: none of its images is to be taken.
        stopped: The images when their feature loss first was at the known noise level, [L, n, ...], or None where
            none was to be stopped at; what never got there is as it ended.
        stopped_at: The step of it, [L, n].
    """

    images: Tensor
    losses: Tensor
    steps: list[int]
    trace: Tensor
    spent: Tensor
    behind: Tensor
    stopped: Tensor | None = None
    stopped_at: Tensor | None = None

    @classmethod
    def joined(cls, outcomes: Sequence[Outcome], after: int = 0) -> Outcome:
        """Outcomes of the same schedule side by side, along the dimension `after` the lanes' (0: the lanes)."""
        stopped = [outcome.stopped for outcome in outcomes if outcome.stopped is not None]
        stopped_at = [outcome.stopped_at for outcome in outcomes if outcome.stopped_at is not None]
        steps = max((outcome.steps for outcome in outcomes), key=len)
        return cls(
            torch.cat([outcome.images for outcome in outcomes], 1 + after),
            torch.cat([outcome.losses for outcome in outcomes], 1 + after),
            steps,
            torch.cat([_continued(outcome.trace, len(steps)) for outcome in outcomes], 1 + after),
            torch.cat([outcome.spent for outcome in outcomes], after),
            torch.cat([outcome.behind for outcome in outcomes], after),
            torch.cat(stopped, after) if stopped else None,
            torch.cat(stopped_at, after) if stopped_at else None,
        )

    def changed(self, change: Callable[[Tensor, int], Tensor]) -> Outcome:
        """Every tensor changed; `change` is told which dimension the lanes are in."""
        return Outcome(
            change(self.images, 1),
            change(self.losses, 1),
            self.steps,
            change(self.trace, 1),
            change(self.spent, 0),
            change(self.behind, 0),
            None if self.stopped is None else change(self.stopped, 0),
            None if self.stopped_at is None else change(self.stopped_at, 0),
        )

    def kept(self, schedule: Schedule) -> tuple[list[Tensor], list[int]]:
        """Images [L, n, ...] of every checkpoint, and the step of each.

        Those that reached the known noise level come first, under their median step, so that what comes last is where
        the optimisation ended.
        """
        done = int(self.spent.max())
        images, steps = list(self.images), [min(step, done) for step in schedule.kept_steps()]
        if self.stopped is not None and self.stopped_at is not None and bool(self.stopped_at.min() < schedule.steps):
            return [self.stopped, *images], [int(self.stopped_at.median()), *steps]
        return images, steps

    def lanes(self, start: int, end: int) -> Outcome:
        """The lanes from `start` to before `end`."""
        return self.changed(lambda part, lane: part.narrow(lane, start, end - start))

    def chosen(self, lanes: Tensor) -> Outcome:
        """The lanes of these indices, [m], in their order."""
        return self.changed(lambda part, lane: part.index_select(lane, lanes))


def _continued(trace: Tensor, points: int) -> Tensor:
    """A trace with its last losses repeated up to so many points."""
    return torch.cat([trace, trace[-1:].expand(points - len(trace), *trace.shape[1:])])
