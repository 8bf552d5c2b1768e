"""What is written down of lanes while they run, also of those that have left."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.inversion.outcome import Outcome
from attacks.inversion.schedule import Schedule

TRACE_POINTS = 50


class Logbook:
    """Trace, images at checkpoints and images at the known noise level, of all lanes that a run began with.

    Args:
        start: Images to start from, [L, n, channels, height, width].
        schedule: Says when something is written down.

    Attributes:
        at: Which lanes are still there, [l]; what else is given has them as its rows.
        done: Gradient steps so far.
        losses: Feature loss of every image when it was last noted, [L, n].
        behind: [L, n], as in `Outcome`.
        trace: Feature losses [L, n] at the points so far.
    """

    def __init__(self, start: Tensor, schedule: Schedule) -> None:
        lanes, n = start.shape[:2]
        self.at = torch.arange(lanes, device=start.device)
        self.done = 0
        self.losses = torch.full((lanes, n), torch.nan, device=start.device)
        self.behind = torch.zeros((lanes, n), dtype=torch.bool, device=start.device)
        self.trace = list[Tensor]()
        self._schedule = schedule
        self._every = max(1, schedule.steps // TRACE_POINTS)
        self._images = start.detach().clone()
        self._latest = self.losses
        self._steps = list[int]()
        self._spent = torch.zeros((lanes, n), dtype=torch.int64, device=start.device)
        self._kept = list[tuple[Tensor, Tensor]]()
        self._stopped = self._images.clone()
        self._stopped_at = torch.full((lanes, n), -1, device=start.device)

    def step(self) -> bool:
        """Count a step; whether a point of the trace is due at it."""
        due = self.done % self._every == 0
        if due:
            self._steps.append(self.done)
        self.done += 1
        return due

    def point(self, x: Tensor, losses: Tensor, levels: Tensor | None) -> None:
        """Write down losses, [l, n], and keep the images, [l, n, ...], that have reached the levels, [l, 1]."""
        self._latest = self._latest.index_copy(0, self.at, losses)
        self.trace.append(self._latest)
        if levels is not None:
            reached = torch.zeros_like(self.behind).index_copy_(0, self.at, losses <= levels)
            now = reached & (self._stopped_at < 0)
            self._stopped_at[now] = self._steps[-1]
            self._stopped[now] = self._images.index_copy(0, self.at, x.detach())[now]

    def note(self, x: Tensor, losses: Tensor) -> None:
        """Take down images [l, n, ...] and their losses [l, n] as they are."""
        self._images[self.at] = x.detach()
        self.losses = self.losses.index_copy(0, self.at, losses)
        self._latest = self._latest.index_copy(0, self.at, losses)
        self._spent[self.at] = self.done

    def keep(self) -> None:
        """Make a checkpoint of what was noted last."""
        self._kept.append((self._images.clone(), self.losses))

    def outcome(self, *, noise_known: bool) -> Outcome:
        """Everything, of all lanes; checkpoints that nobody reached are as all ended."""
        while len(self._kept) < len(self._schedule.kept_rounds()):
            self.keep()
        images, losses = zip(*self._kept, strict=True)
        never = self._stopped_at < 0
        self._stopped_at[never] = self._spent[never]
        self._stopped[never] = self._images[never]
        return Outcome(
            torch.stack(images),
            torch.stack(losses),
            [*self._steps, self.done],
            torch.stack([*self.trace, self.losses]),
            self._spent,
            self.behind,
            self._stopped if noise_known else None,
            self._stopped_at if noise_known else None,
        )
