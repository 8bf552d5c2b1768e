"""White-box inversion: what the smashed data give away to somebody who holds the client's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from attacks.base import Attack, Budget, Finding, Goal, Progress, Stance
from attacks.clients.client_model import has_stand_in
from attacks.inversion.outcome import Outcome
from attacks.inversion.problems import Problems, both, sent, solve
from attacks.inversion.schedule import Schedule
from benchmark.view import Knowledge, ServerView


class KnownClient(Attack):
    """Find the images whose smashed data are what was sent, with the client's own head.

    Regularised maximum likelihood: min over x of MSE(f(x), z) + tv * TV(x) + l2 * mean(x^2), by Adam from a
    constant. He, Zhang and Lee, "Model Inversion Attacks Against Collaborative Inference", ACSAC 2019; squared total
    variation as in `unsplit`. A reference, never ranked, and not a ceiling: at deep cuts a decoder trained on
    auxiliary images does better. Where the server saw the targets k times, the mean of the k smashed data is the
    target.

    Forms as those of `unsplit`: `aware` puts the defense's own hooks around the head, `adaptive` their expectation.
    """

    name: ClassVar[str] = "known_client"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious", "aware", "adaptive")
    # Aligned SSIM on a known convolution .999, grey and colour.
    planted: ClassVar[Mapping[str, object]] = {"steps": 300}
    role: ClassVar[Literal["attack", "reference"]] = "reference"

    tv: float = Field(1e-2, ge=0, le=1e6, description="weight of the squared total variation")
    l2: float = Field(0.0, ge=0, le=1e6, description="weight of the mean squared pixel")
    steps: int = Field(1000, ge=1, le=10_000_000, description="steps on the images")
    lr: float = Field(1e-2, gt=0, le=10, description="Adam's learning rate")
    start: float = Field(0.5, ge=-10, le=10, description="value of every pixel at the start")
    checkpoints: int = Field(4, ge=1, le=100, description="equally spaced moments whose images are kept, end included")

    def knowledge(self) -> frozenset[Knowledge]:
        """The client's weights, on top of its architecture; who knows the defense is granted it."""
        return super().knowledge() | {Knowledge.CLIENT_WEIGHTS}

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack all views at once, a lane each; see `Attack.run`."""
        findings = self._findings(views, budget, progress)
        stood_in = [] if self.stance == "oblivious" else [at for at, view in enumerate(views) if has_stand_in(view)]
        if stood_in:
            # A defense's own stand-in may only add: its images stand beside those that its real hooks led to.
            added = self._findings([views[at] for at in stood_in], budget, lambda _: None, stand_in=True)
            for at, finding in zip(stood_in, added, strict=True):
                findings[at] = both(findings[at], finding)
        progress(1.0)
        return findings

    def _findings(
        self, views: Sequence[ServerView], budget: Budget, progress: Progress, *, stand_in: bool = False
    ) -> list[Finding]:
        first = views[0]
        start = torch.full((len(views), first.n, *first.image_shape), self.start, device=first.device)
        problems = Problems([view.client_head for view in views], start, sent(views, self.stance, stand_in=stand_in))
        outcome, _ = solve(problems, self._schedule(), budget.memory, progress)
        return [self._finding(outcome.lanes(lane, lane + 1)) for lane in range(len(views))]

    def _schedule(self) -> Schedule:
        return Schedule(self.steps, 1, 0, self.lr, self.lr, self.tv, self.l2, self.checkpoints)

    def _finding(self, outcome: Outcome) -> Finding:
        images, steps = outcome.kept(self._schedule())
        return Finding(
            reconstructions=torch.stack([kept.squeeze(0) for kept in images]),
            trace={
                "step": [float(step) for step in outcome.steps],
                "loss": outcome.trace[:, 0].mean(1).tolist(),
            },
            steps=self._schedule().steps,
            checkpoints=steps,
        )
