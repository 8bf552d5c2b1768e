"""Attacks that do well and badly on planted clients."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from attacks.base import Attack, Goal, Progress, Stance
from benchmark.finding import Budget, Finding
from benchmark.view import Knowledge, ServerView


class Reads(Attack):
    """Takes the smashed data for the image; own work."""

    name: ClassVar[str] = "reads"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        progress(1.0)
        return [Finding(self.image(view)[None]) for view in views]

    def image(self, view: ServerView):
        if view.smashed.shape[2:] == view.image_shape:
            return view.smashed[0]
        return view.rng("guess").uniform((view.n, *view.image_shape), view.device)


class TwoWays(Reads):
    """Reads what a parameter says."""

    name: ClassVar[str] = "two_ways"
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious", "aware")
    planted: ClassVar[Mapping[str, object]] = {"steps": 100}

    steps: int = Field(1, ge=1, description="of its budget")
    reads: Literal["smashed", "auxiliary"] = Field("smashed", description="what it reads")

    def knowledge(self) -> frozenset[Knowledge]:
        return super().knowledge() | ({Knowledge.AUXILIARY} if self.reads == "auxiliary" else set())


class Fails(Reads):
    """Raises."""

    name: ClassVar[str] = "fails"

    def image(self, view: ServerView):
        raise ValueError("not today")


class Greedy(Reads):
    """Wants what it does not declare."""

    name: ClassVar[str] = "greedy"

    def image(self, view: ServerView):
        return view.auxiliary.images[: view.n]


class HangsLater(Reads):
    """Reads an identity and hangs on a convolution."""

    name: ClassVar[str] = "hangs_later"

    def image(self, view: ServerView):
        if view.smashed.shape[2:] != view.image_shape:
            time.sleep(600)
        return view.smashed[0]


class Dies(Reads):
    """Ends its process."""

    name: ClassVar[str] = "dies"

    def image(self, view: ServerView):
        os._exit(7)
