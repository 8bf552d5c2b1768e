"""Attacks that fail in every way there is, on noisy views only, so that their neighbours in a group are innocent."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from attacks.base import Attack, Progress
from benchmark.finding import Budget, Finding
from benchmark.view import Knowledge, ServerView


class Steady(Attack):
    """Answers every view with noise of its own; never fails."""

    name: ClassVar[str] = "steady"
    goals: ClassVar = ("reconstruct",)
    mark: int = Field(0, description="tells one from another")

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        progress(0.5)
        return [Finding(view.rng("guess").uniform((1, view.n, *view.image_shape), view.device)) for view in views]


class Faulty(Steady):
    """Fails where a view is loud: where its smashed data have a standard deviation above 2."""

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        if any(view.smashed.std() > 2 for view in views):
            self.fail()
        return super().run(views, budget, progress)

    def fail(self) -> None:
        raise NotImplementedError


class Raises(Faulty):
    """Raises."""

    name: ClassVar[str] = "raises"

    def fail(self) -> None:
        raise ValueError("no such\nluck")


class Hangs(Faulty):
    """Never returns."""

    name: ClassVar[str] = "hangs"
    busy: bool = Field(False, description="hang without ever letting another thread of the process run")

    def fail(self) -> None:
        print("hanging", flush=True)
        if self.busy:
            re.match(r"(a+)+$", "a" * 64 + "b")
        while True:
            time.sleep(1)


class Exits(Faulty):
    """Leaves through the front door."""

    name: ClassVar[str] = "exits"

    def fail(self) -> None:
        sys.exit(3)


class HardExits(Faulty):
    """Leaves through the window."""

    name: ClassVar[str] = "hard_exits"

    def fail(self) -> None:
        os._exit(7)


class Dies(Faulty):
    """Is killed by a signal."""

    name: ClassVar[str] = "dies"
    number: int = Field(signal.SIGKILL, description="the signal")

    def fail(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(60)


class Poisons(Faulty):
    """Raises, after it has left the process in a state in which torch fails everywhere."""

    name: ClassVar[str] = "poisons"

    def fail(self) -> None:
        torch.set_default_device("meta")
        raise RuntimeError("device-side assert")


class ClosesPipes(Faulty):
    """Closes file descriptors that are not its own."""

    name: ClassVar[str] = "closes_pipes"

    def fail(self) -> None:
        os.closerange(3, 256)
        time.sleep(60)


class Scribbles(Faulty):
    """Writes into every file descriptor it finds."""

    name: ClassVar[str] = "scribbles"

    def fail(self) -> None:
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"hello\n")
            except OSError:
                continue
        time.sleep(60)


class Returns(Faulty):
    """Returns something that is not a list of findings."""

    name: ClassVar[str] = "returns"

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        findings = Steady.run(self, views, budget, progress)
        return findings[1:] if any(view.smashed.std() > 2 for view in views) else findings


class Chatters(Steady):
    """Prints what looks like an event, and starts a process that outlives it."""

    name: ClassVar[str] = "chatters"
    note: str = Field("", description="file for the process id of what it leaves behind")

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        print('{"event": "done"}', flush=True)
        if os.fork() == 0:
            with open(self.note, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
        return super().run(views, budget, progress)


class Clones(Steady):
    """Answers every view with a fresh head; the harness has no classifier to train for what reconstructs nothing."""

    name: ClassVar[str] = "clones"
    goals: ClassVar = ("steal",)

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        return [Finding(clone=view.new_head(view.rng("guess", self.mark))) for view in views]


class Leaks(Faulty):
    """Takes memory and never gives it back."""

    name: ClassVar[str] = "leaks"

    def fail(self) -> None:
        kept = []
        while True:
            kept.append(torch.ones(2**24, device="cpu"))
            time.sleep(0.1)


class DrawsGlobally(Steady):
    """Guesses with numbers from the global streams of torch, numpy and Python, and seeds them anew behind itself."""

    name: ClassVar[str] = "draws_globally"

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        found = []
        for view in views:
            level = 0.5 * np.random.rand() + 0.5 * random.random()  # noqa: NPY002
            guess = level * torch.rand(1, view.n, *view.image_shape, device="cpu")
            found.append(Finding(guess.to(view.device)))
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(int.from_bytes(os.urandom(4), "big"))
        return found


class Unsettles(Steady):
    """Leaves torch with other settings, and the process in another folder, than it found."""

    name: ClassVar[str] = "unsettles"

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        found = super().run(views, budget, progress)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True, warn_only=True)
        os.chdir("/")
        return found


class Overwrites(Steady):
    """Writes into every tensor that it is handed."""

    name: ClassVar[str] = "overwrites"

    def knowledge(self) -> frozenset[Knowledge]:
        return super().knowledge() | {Knowledge.AUXILIARY, Knowledge.DEFENSE, Knowledge.CLIENT_WEIGHTS}

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        found = super().run(views, budget, progress)
        for view in views:
            part = view.auxiliary
            states = [defense.state for defense in view.protection.defenses]
            modules = [*view.body.state_dict().values(), *view.client_head.state_dict().values()]
            given = [view.smashed, part.images, part.labels, part.ids, *modules]
            for tensor in given + [value for state in states for value in state.values()]:
                tensor.fill_(7)
        return found


class Forks(Steady):
    """Splits its process in two, and both go on."""

    name: ClassVar[str] = "forks"

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        os.fork()
        return super().run(views, budget, progress)


class ForksAndRaises(Steady):
    """Splits its process in two; the new one raises, the old one goes on."""

    name: ClassVar[str] = "forks_and_raises"

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        if os.fork() == 0:
            raise ValueError("in the child")
        return super().run(views, budget, progress)
