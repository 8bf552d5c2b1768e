"""UnSplit: reconstruct inputs and clone the client from the smashed data and the client's architecture alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attacks.base import Attack, Budget, Finding, Goal, Progress, Stance
from attacks.clients.client_model import has_stand_in
from attacks.inversion.outcome import Outcome
from attacks.inversion.problems import Problems, Sent, both, sent, solve
from attacks.inversion.schedule import Schedule
from attacks.inversion.selection import consensus, lowest, lowest_restart
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

    `aware` and `adaptive` put the defense's own hooks around the clone (`attacks.clients.defended_path`), count squared
    errors in the size of their unit, and let the prior give way from round to round. `aware` draws the defense's
    randomness anew at every step and calls what has no gradient straight through. `adaptive` takes the expectation over
    it, joins what a random mask let through in any view, and keeps the images at the known noise level as a checkpoint
    beside the others. Without much noise both gain from faster rates (input_lr=0.02, model_lr=0.01 for ten rounds of 20
    + 20).

    `ends=at_rest` lets each restart go when its loss has come to rest, and the record says how many steps that saved.
    `halve` drops the half of the restarts with the higher loss on the way; the loss tells little early, least of all
    behind a second convolution.

    Of several restarts, `select=own_loss` gives back the image with the lowest feature loss (joint: the restart with
    the lowest mean), and `consensus` what the restarts agree on. The clone given back is the one with the lowest
    feature loss: over all targets for `joint` and `carried`, on its own target for `per_target`.
    """

    name: ClassVar[str] = "unsplit"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct", "steal")
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious", "aware", "adaptive")
    # Worst aligned SSIM on a convolution nobody knows .97 (64 x 64, colour), agreement of the clone .93.
    planted: ClassVar[Mapping[str, object]] = {
        "clone": "joint",
        "l2": 0.0,
        "tv": 0.01,
        "restarts": 2,
        "rounds": 60,
        "input_steps": 20,
        "model_steps": 20,
        "input_lr": 0.02,
        "model_lr": 0.01,
    }

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
    ends: Literal["after_all_rounds", "at_rest"] = Field(
        "after_all_rounds", description="when a restart ends: with the budget, or before it where its loss is at rest"
    )
    halve: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the rounds after which the half of the restarts with the higher feature loss is dropped; "
        "null keeps all",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="what convolutions' products are computed in; weights and losses stay in float32"
    )

    @model_validator(mode="after")
    def _halves_what_there_is(self) -> Self:
        if self.halve is not None and (self.restarts == 1 or self.clone == "carried"):
            why = "restarts=1 leaves nothing to drop" if self.restarts == 1 else "clone=carried needs all restarts"
            raise ValueError(f"halve={self.halve:g} drops half of the restarts, but {why}; leave halve out")
        return self

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
            precision=self.precision,
            ends_at_rest=self.ends == "at_rest",
            halved_after=None if self.halve is None else max(1, round(self.halve * self.rounds)),
            rivals=self.restarts,
        )

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack all views at once; see `Attack.run`."""
        stood_in = [] if self.stance == "oblivious" else [at for at, view in enumerate(views) if has_stand_in(view)]
        rounds = 2 if stood_in else 1
        findings = self._findings(views, budget, lambda done: progress(done / rounds))
        if stood_in:
            # A defense's own stand-in may only add: its images stand beside those that its real hooks led to.
            added = self._findings(
                [views[at] for at in stood_in], budget, lambda done: progress((1 + done) / 2), stand_in=True
            )
            for at, finding in zip(stood_in, added, strict=True):
                findings[at] = both(findings[at], finding)
        progress(1.0)
        return findings

    def _findings(
        self, views: Sequence[ServerView], budget: Budget, progress: Progress, *, stand_in: bool = False
    ) -> list[Finding]:
        first = views[0]
        # A restart's start depends neither on the victim nor on how many views run beside it.
        clones = [first.new_head(first.rng("clone", restart)) for restart in range(self.restarts)]
        starts = torch.stack([self._start(first, restart) for restart in range(self.restarts)])
        attack = {"per_target": self._per_target, "carried": self._carried, "joint": self._joint}[self.clone]
        results = attack(clones, starts, sent(views, self.stance, stand_in=stand_in), budget, progress)
        return [self._finding(result) for result in results]

    def _start(self, view: ServerView, restart: int) -> Tensor:
        images = torch.full((view.n, *view.image_shape), self.start, device=view.device)
        if self.jitter:
            noise = [view.rng("start", restart, target).normal(view.image_shape) for target in range(view.n)]
            images += self.jitter * torch.stack(noise).to(view.device)
        return images

    def _joint(
        self, clones: list[nn.Module], starts: Tensor, seen: Sent, budget: Budget, progress: Progress
    ) -> list[_Restarts]:
        views, restarts = len(seen.targets), len(clones)
        problems = Problems(clones * views, starts.repeat(views, 1, 1, 1, 1), seen.repeated(restarts))
        outcome, heads = solve(problems, self.schedule(), budget.memory, progress)
        return [
            _Restarts.of(outcome, heads, range(at, at + restarts), 1, whole=True)
            for at in range(0, views * restarts, restarts)
        ]

    def _per_target(
        self, clones: list[nn.Module], starts: Tensor, seen: Sent, budget: Budget, progress: Progress
    ) -> list[_Restarts]:
        views, n = seen.targets.shape[:2]
        restarts = len(clones)
        problems = Problems(
            [clone for _ in range(views * n) for clone in clones],
            starts.transpose(0, 1).flatten(0, 1).repeat(views, 1, 1, 1).unsqueeze(1),
            seen.singly().repeated(restarts),
        )
        outcome, heads = solve(problems, self.schedule(), budget.memory, progress)
        each = restarts * n
        return [
            _Restarts.of(outcome, heads, range(at, at + each), n, whole=False) for at in range(0, views * each, each)
        ]

    def _carried(
        self, clones: list[nn.Module], starts: Tensor, seen: Sent, budget: Budget, progress: Progress
    ) -> list[_Restarts]:
        views, n = seen.targets.shape[:2]
        restarts = len(clones)
        heads = clones * views
        outcomes: list[Outcome] = []
        for target in range(n):

            def partly(fraction: float, done: int = target) -> None:
                progress((done + fraction) / n)

            problems = Problems(
                heads,
                starts[:, target : target + 1].repeat(views, 1, 1, 1, 1),
                seen.of_target(target).repeated(restarts),
            )
            outcome, heads = solve(problems, self.schedule(), budget.memory, partly)
            outcomes.append(outcome)
        joined = Outcome.joined(outcomes, 1)
        return [
            _Restarts.of(joined, heads, range(at, at + restarts), 1, whole=False)
            for at in range(0, views * restarts, restarts)
        ]

    def _finding(self, result: _Restarts) -> Finding:
        schedule, outcome = self.schedule(), result.outcome
        kept, checkpoints = outcome.kept(schedule)
        losses = list(result.ranking())
        losses = [losses[-1]] * (len(kept) - len(losses)) + losses
        if self.select == "consensus":
            reconstructions = [consensus(images) for images in kept]
            trace = outcome.trace.mean((1, 2))
        else:
            reconstructions = [lowest(images, loss) for images, loss in zip(kept, losses, strict=True)]
            chosen = lowest_restart(losses[-1])
            trace = outcome.trace[:, chosen, torch.arange(len(chosen), device=chosen.device)].mean(1)
        return Finding(
            reconstructions=torch.stack(reconstructions),
            clone=result.heads[result.best_head()],
            trace={"step": [float(step) for step in outcome.steps], "loss": trace.tolist()},
            steps=int(outcome.spent.max()),
            saved_steps=result.saved(schedule),
            checkpoints=checkpoints,
        )


@dataclass(frozen=True)
class _Restarts:
    """The restarts of one view: the outcome of those that are left, with R in the place of the lanes.

    `heads` are R clones, or R * n where each target has its own. `whole`: a restart is chosen for all targets or none.
    `spent` is the mean of the steps of all, also of those that were dropped.
    """

    outcome: Outcome
    heads: list[nn.Module]
    whole: bool
    spent: float

    @classmethod
    def of(cls, outcome: Outcome, heads: list[nn.Module], lanes: range, alone: int, *, whole: bool) -> _Restarts:
        """What became of these lanes, which go target by target where `alone` targets have lanes of their own."""
        own = outcome.lanes(lanes.start, lanes.stop)
        left = (~own.behind[:, 0]).nonzero().flatten()
        if alone > 1:
            left = left.unflatten(0, (alone, -1)).T.flatten()
        of_left = own.chosen(left)
        if alone > 1:
            of_left = of_left.changed(lambda part, lane: part.squeeze(lane + 1).unflatten(lane, (-1, alone)))
        return cls(
            of_left, [heads[lanes.start + lane] for lane in left.tolist()], whole, float(own.spent.float().mean())
        )

    def saved(self, schedule: Schedule) -> int:
        """Gradient steps of a restart that were not needed, on average."""
        return round(schedule.steps - self.spent)

    def ranking(self) -> Tensor:
        """[checkpoints, R, n], what restarts are compared by."""
        losses = self.outcome.losses
        return losses.mean(2, keepdim=True).expand_as(losses) if self.whole else losses

    def best_head(self) -> int:
        """The clone with the lowest final loss, over whatever it was to explain."""
        final = self.outcome.losses[-1]
        own = final.flatten() if len(self.heads) == final.numel() else final.mean(1)
        return int(lowest_restart(own))
