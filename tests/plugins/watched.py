"""Plug-ins that leave notes of where they ran, so that a test can count them, find their process and hold it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from attacks.base import Attack, Progress
from benchmark.finding import Budget, Finding
from benchmark.protocol import Training
from benchmark.view import ServerView
from defenses.base import Defense

RELEASED = "released"


def leave_note(folder: str, title: str) -> None:
    """Write a file `TITLE PID PARENT` of its own."""
    note = f"{title} {os.getpid()} {os.getppid()}"
    Path(folder, f".{note}").touch()
    Path(folder, f".{note}").rename(Path(folder, note))


class Holds(Attack):
    """Answers with noise of its own, once it is released."""

    name: ClassVar[str] = "holds"
    goals: ClassVar = ("reconstruct",)
    notes: str = Field("", description="folder")
    mark: int = Field(0, description="tells one from another")

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        leave_note(self.notes, f"attack{self.mark}")
        while not Path(self.notes, RELEASED).exists():
            time.sleep(0.05)
        return [Finding(view.rng("guess").uniform((1, view.n, *view.image_shape), view.device)) for view in views]


class Counted(Defense):
    """Noise; notes each training."""

    name: ClassVar[str] = "counted"
    notes: str = Field("", description="folder")

    def privatise(self, training: Training) -> Training:
        leave_note(self.notes, "training")
        return training

    def protect_activations(self, z: torch.Tensor, rng: object, phase: str) -> torch.Tensor:
        return z + 0.1
