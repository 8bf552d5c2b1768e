"""White-box inversion: what the smashed data give away to somebody who holds the client's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from attacks.base import Attack, Budget, Finding, Goal, Progress
from attacks.inversion import Schedule, alternate
from benchmark.lanes import Lanes, bytes_per_lane, chunks
from benchmark.view import Knowledge, ServerView


class KnownClient(Attack):
    """Find the images whose smashed data are what was sent, with the client's own head.

    Regularised maximum likelihood: min over x of MSE(f(x), z) + tv * TV(x) + l2 * mean(x^2), by Adam from a
    constant. He, Zhang and Lee, "Model Inversion Attacks Against Collaborative Inference", ACSAC 2019; squared total
    variation as in `unsplit`. A reference, never ranked, and not a ceiling: at deep cuts a decoder trained on
    auxiliary images does better. Where the server saw the targets k times, the mean of the k smashed data is the
    target.
    """

    name: ClassVar[str] = "known_client"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)
    role: ClassVar[Literal["attack", "reference"]] = "reference"
    planted: ClassVar[Mapping[str, object]] = {"steps": 300}

    tv: float = Field(1e-2, ge=0, le=1e6, description="weight of the squared total variation")
    l2: float = Field(0.0, ge=0, le=1e6, description="weight of the mean squared pixel")
    steps: int = Field(1000, ge=1, le=10_000_000, description="steps on the images")
    lr: float = Field(1e-2, gt=0, le=10, description="Adam's learning rate")
    start: float = Field(0.5, ge=-10, le=10, description="value of every pixel at the start")
    checkpoints: int = Field(4, ge=1, le=100, description="equally spaced moments whose images are kept, end included")

    def knowledge(self) -> frozenset[Knowledge]:
        """The client's weights, on top of its architecture."""
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.CLIENT_WEIGHTS})

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack all views at once, a lane each; see `Attack.run`."""
        schedule = Schedule(self.steps, 1, 0, self.lr, self.lr, self.tv, self.l2, self.checkpoints)
        heads = [view.client_head for view in views]
        first = views[0]
        start = torch.full((first.n, *first.image_shape), self.start, device=first.device)
        findings: list[Finding] = []
        for run in chunks(len(views), bytes_per_lane(heads[0], start), budget.memory):

            def partly(fraction: float, done: int = run.start, size: int = len(run)) -> None:
                progress((done + fraction * size) / len(views))

            part = slice(run.start, run.stop)
            targets = torch.stack([view.smashed.detach().mean(0) for view in views[part]])
            outcome = alternate(Lanes(heads[part]), start.expand(len(run), *start.shape), targets, schedule, partly)
            findings += [
                Finding(
                    reconstructions=outcome.images[:, lane],
                    trace={
                        "step": [float(step) for step in outcome.steps],
                        "loss": outcome.trace[:, lane].mean(1).tolist(),
                    },
                    steps=schedule.steps,
                    checkpoints=schedule.kept_steps(),
                )
                for lane in range(len(run))
            ]
        return findings
