"""UnSplit: reconstruct inputs and clone the client from the smashed data and the client's architecture alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.base import Attack, Budget, Finding, Goal, Progress
from attacks.inversion import Outcome, Schedule, alternate
from attacks.selection import consensus, lowest, lowest_restart
from benchmark.lanes import Lanes, bytes_per_lane, chunks
from benchmark.view import ServerView


class UnSplit(Attack):
    """Alternate between the private images and a clone of the client's head until the clone's output is what was sent.

    Erdogan, Kupcu and Cicek, "UnSplit: Data-Oblivious Model Inversion, Model Stealing, and Label Inference Attacks
    Against Split Learning", WPES 2022 (arXiv 2108.09033). Objective and schedule: `attacks.inversion.alternate`. The
    paper's objective is feature loss and total variation (`preset=paper`); their code adds the mean squared pixel
    with weight 1 (`preset=code`).

    `clone` says what one clone must explain:

    - `per_target`: each target has a clone of its own, all started from the same fresh weights.
    - `carried`: one clone goes from target to target, in order, with fresh optimisers, as in their code.
    - `joint`: one clone explains all targets of the view at once; by far the stronger.

    Where the server saw the targets k times, the mean of the k smashed data is the target: minimising the mean
    squared error to all of them comes to the same.

    Of several restarts, `select=own_loss` gives back the image with the lowest feature loss (joint: the restart with
    the lowest mean), and `consensus` what the restarts agree on. The clone given back is the one with the lowest
    feature loss: over all targets for `joint` and `carried`, on its own target for `per_target`.
    """

    name: ClassVar[str] = "unsplit"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct", "steal")

    preset: Literal["code", "paper"] = Field(
        "code", description="objective as in the published code (l2 = 1) or as in the paper (l2 = 0)"
    )
    l2: float | None = Field(
        None, ge=0, le=1e6, description="weight of the mean squared pixel; what the preset says where not given"
    )
    tv: float = Field(0.1, ge=0, le=1e6, description="weight of the squared total variation")
    rounds: int = Field(1000, ge=1, le=1_000_000, description="alternations of image steps and model steps")
    input_steps: int = Field(100, ge=1, le=1_000_000, description="steps on the images in each round")
    model_steps: int = Field(100, ge=1, le=1_000_000, description="steps on the clone in each round")
    input_lr: float = Field(1e-3, gt=0, le=10, description="Adam's learning rate on the images")
    model_lr: float = Field(1e-3, gt=0, le=10, description="Adam's learning rate on the clone")
    start: float = Field(0.5, ge=-10, le=10, description="value of every pixel at the start")
    jitter: float = Field(0.0, ge=0, le=10, description="standard deviation of normal noise added to the start")
    clone: Literal["per_target", "carried", "joint"] = Field(
        "per_target", description="what one clone must explain: one target, one after the other, or all at once"
    )
    restarts: int = Field(1, ge=1, le=10_000, description="independent starts of the clone, run as lanes")
    select: Literal["own_loss", "consensus"] = Field(
        "own_loss", description="which restart's images are given back: lowest feature loss, or what all agree on"
    )
    checkpoints: int = Field(4, ge=1, le=100, description="equally spaced moments whose images are kept, end included")

    def schedule(self) -> Schedule:
        """The optimisation these parameters ask for."""
        preset = {"code": 1.0, "paper": 0.0}[self.preset]
        return Schedule(
            rounds=self.rounds,
            input_steps=self.input_steps,
            model_steps=self.model_steps,
            input_lr=self.input_lr,
            model_lr=self.model_lr,
            tv=self.tv,
            l2=preset if self.l2 is None else self.l2,
            checkpoints=self.checkpoints,
        )

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack all views at once; see `Attack.run`."""
        first = views[0]
        # A restart's start depends neither on the victim nor on how many views run beside it.
        clones = [first.new_head(first.rng("clone", restart)) for restart in range(self.restarts)]
        starts = torch.stack([self._start(first, restart) for restart in range(self.restarts)])
        targets = torch.stack([view.smashed.detach().mean(0) for view in views])
        attack = {"per_target": self._per_target, "carried": self._carried, "joint": self._joint}[self.clone]
        results = attack(clones, starts, targets, budget, progress)
        progress(1.0)
        return [self._finding(result) for result in results]

    def _start(self, view: ServerView, restart: int) -> Tensor:
        images = torch.full((view.n, *view.image_shape), self.start, device=view.device)
        if self.jitter:
            noise = [view.rng("start", restart, target).normal(view.image_shape) for target in range(view.n)]
            images += self.jitter * torch.stack(noise).to(view.device)
        return images

    def _joint(
        self, clones: list[nn.Module], starts: Tensor, targets: Tensor, budget: Budget, progress: Progress
    ) -> list[_Restarts]:
        views, restarts = len(targets), len(clones)
        problems = _Problems(
            clones * views,
            starts.repeat(views, 1, 1, 1, 1),
            targets.repeat_interleave(restarts, 0),
        )
        outcome, heads = _solve(problems, self.schedule(), budget, progress)
        return [
            _Restarts(*_lanes(outcome, at, at + restarts), outcome.steps, heads[at : at + restarts], whole=True)
            for at in range(0, views * restarts, restarts)
        ]

    def _per_target(
        self, clones: list[nn.Module], starts: Tensor, targets: Tensor, budget: Budget, progress: Progress
    ) -> list[_Restarts]:
        views, n = targets.shape[:2]
        restarts = len(clones)
        problems = _Problems(
            [clone for _ in range(views) for clone in clones for _ in range(n)],
            starts.flatten(0, 1).repeat(views, 1, 1, 1).unsqueeze(1),
            targets.repeat_interleave(restarts, 0).flatten(0, 1).unsqueeze(1),
        )
        outcome, heads = _solve(problems, self.schedule(), budget, progress)
        results = []
        for at in range(0, views * restarts * n, restarts * n):
            images, losses, trace = (
                part.squeeze(2).unflatten(1, (restarts, n)) for part in _lanes(outcome, at, at + restarts * n)
            )
            results.append(_Restarts(images, losses, trace, outcome.steps, heads[at : at + restarts * n], whole=False))
        return results

    def _carried(
        self, clones: list[nn.Module], starts: Tensor, targets: Tensor, budget: Budget, progress: Progress
    ) -> list[_Restarts]:
        views, n = targets.shape[:2]
        restarts = len(clones)
        heads = clones * views
        outcomes: list[Outcome] = []
        for target in range(n):

            def partly(fraction: float, done: int = target) -> None:
                progress((done + fraction) / n)

            problems = _Problems(
                heads,
                starts[:, target : target + 1].repeat(views, 1, 1, 1, 1),
                targets[:, target : target + 1].repeat_interleave(restarts, 0),
            )
            outcome, heads = _solve(problems, self.schedule(), budget, partly)
            outcomes.append(outcome)
        joined = _join(outcomes)
        return [
            _Restarts(*_lanes(joined, at, at + restarts), joined.steps, heads[at : at + restarts], whole=False)
            for at in range(0, views * restarts, restarts)
        ]

    def _finding(self, result: _Restarts) -> Finding:
        schedule = self.schedule()
        losses = result.ranking()
        if self.select == "consensus":
            reconstructions = [consensus(images) for images in result.images]
            trace = result.trace.mean((1, 2))
        else:
            reconstructions = [lowest(images, loss) for images, loss in zip(result.images, losses, strict=True)]
            chosen = lowest_restart(losses[-1])
            trace = result.trace[:, chosen, torch.arange(len(chosen), device=chosen.device)].mean(1)
        return Finding(
            reconstructions=torch.stack(reconstructions),
            clone=result.heads[result.best_head()],
            trace={"step": [float(step) for step in result.steps], "loss": trace.tolist()},
            steps=schedule.steps,
            checkpoints=schedule.kept_steps(),
        )


@dataclass(frozen=True)
class _Problems:
    """Heads (one a lane), starts [L, n, c, h, w] and targets [L, n, ...]."""

    heads: list[nn.Module]
    starts: Tensor
    targets: Tensor


@dataclass(frozen=True)
class _Restarts:
    """All restarts of one view: images [checkpoints, R, n, ...], losses [checkpoints, R, n], trace [points, R, n].

    `heads` are R clones, or R * n where each target has its own. `whole`: a restart is chosen for all targets or none.
    """

    images: Tensor
    losses: Tensor
    trace: Tensor
    steps: list[int]
    heads: list[nn.Module]
    whole: bool

    def ranking(self) -> Tensor:
        """[checkpoints, R, n], what restarts are compared by."""
        return self.losses.mean(2, keepdim=True).expand_as(self.losses) if self.whole else self.losses

    def best_head(self) -> int:
        """The clone with the lowest final loss, over whatever it was to explain."""
        final = self.losses[-1]
        own = final.flatten() if len(self.heads) == final.numel() else final.mean(1)
        return int(lowest_restart(own))


def _solve(
    problems: _Problems, schedule: Schedule, budget: Budget, progress: Callable[[float], None]
) -> tuple[Outcome, list[nn.Module]]:
    """Run all lanes in chunks that fit the memory; their outcome and the heads they ended with."""
    lane_bytes = bytes_per_lane(problems.heads[0], problems.starts[0])
    runs = chunks(len(problems.heads), lane_bytes, budget.memory)
    outcomes, heads = list[Outcome](), list[nn.Module]()
    for run in runs:

        def partly(fraction: float, start: int = run.start, size: int = len(run)) -> None:
            progress((start + fraction * size) / len(problems.heads))

        part = slice(run.start, run.stop)
        lanes = Lanes(problems.heads[part])
        outcomes.append(alternate(lanes, problems.starts[part], problems.targets[part], schedule, partly))
        heads += [lanes.head(lane) for lane in range(len(lanes))]
    joined = Outcome(
        torch.cat([outcome.images for outcome in outcomes], 1),
        torch.cat([outcome.losses for outcome in outcomes], 1),
        outcomes[0].steps,
        torch.cat([outcome.trace for outcome in outcomes], 1),
    )
    return joined, heads


def _lanes(outcome: Outcome, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    return outcome.images[:, start:end], outcome.losses[:, start:end], outcome.trace[:, start:end]


def _join(targets: Sequence[Outcome]) -> Outcome:
    """Outcomes of one target each, side by side."""
    return Outcome(
        torch.cat([outcome.images for outcome in targets], 2),
        torch.cat([outcome.losses for outcome in targets], 2),
        targets[0].steps,
        torch.cat([outcome.trace for outcome in targets], 2),
    )
