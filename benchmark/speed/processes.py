"""Programs that are timed in turns, each in a process of its own with the threads it was given.

A program starts once, so that imports and compilation are paid once, and then runs in turns while all others wait.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from benchmark.errors import UserError
from benchmark.executors.allocator import allocator_settings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LIMIT_SECONDS = 400.0


@dataclass(frozen=True)
class Turn:
    """What a program did in one turn.

    Attributes:
        work: In its own unit, such as image-steps.
        seconds: Wall time.
        facts: What else it tells.
    """

    work: float
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Program(Protocol):
    """What runs in a child process; it and its result are pickled."""

    def run(self, turns: Turns) -> object:
        """Get ready, then work and call `turns.did` now and then; what is returned is the program's result."""


class Enough(BaseException):
    """The program is not needed any more; no plug-in's `except Exception` may hold it up."""


class Turns:
    """What a program sees of the others: it is told to go, and waits when its turn is over.

    Args:
        connection: To the process that lets it go; its `recv` gives `go` or `stop`.
        seconds: A turn lasts at least this long.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._work = self._started = 0.0

    def ready(self) -> None:
        """Wait for the first turn; what was done before belongs to none."""
        self._connection.send(("ready", None))
        self._wait()

    def did(self, work: float, **facts: Any) -> None:
        """Count work; once the turn has lasted long enough, report it and wait for the next."""
        self._work += work
        seconds = time.perf_counter() - self._started
        if seconds >= self._seconds:
            self._connection.send(("turn", Turn(self._work, seconds, facts)))
            self._wait()

    def _wait(self) -> None:
        try:
            message = self._connection.recv()
        except EOFError:
            message = "stop"
        if message == "stop":
            raise Enough
        self._work, self._started = 0.0, time.perf_counter()


class Contestant:
    """A program in its process.

    Args:
        title: For messages.
        program: What it runs.
        threads: It computes with.
        seconds: A turn lasts at least this long.
    """

    def __init__(self, title: str, program: Program, threads: int = 1, seconds: float = 0.0) -> None:
        self.title = title
        spawned = multiprocessing.get_context("spawn")
        self._connection, theirs = spawned.Pipe()
        self._process = spawned.Process(target=_carry_out, args=(theirs, program, threads, seconds))
        with _environment(OMP_NUM_THREADS=str(threads), **allocator_settings()):
            self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        """Return when the program has called `ready`."""
        self._expect("ready")

    def go(self) -> None:
        """Begin a turn."""
        self._connection.send("go")

    def ended(self) -> Turn:
        """The turn, once it is over."""
        turn: Turn = self._expect("turn")
        return turn

    def result(self) -> Any:
        """What the program returns, once it does."""
        return self._expect("result")

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()

    def _expect(self, wanted: str) -> Any:
        try:
            if not self._connection.poll(LIMIT_SECONDS):
                raise UserError(f"speed, {self.title}: said nothing for {LIMIT_SECONDS:.0f} s; is the machine busy?")
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(5)
            raise UserError(
                f"speed, {self.title}: its process ended with code {self._process.exitcode}; run it again with more "
                "memory free"
            ) from None
        if kind == "failed":
            raise UserError(f"speed, {self.title}: {value}")
        if kind != wanted:
            raise UserError(f"speed, {self.title}: ended after too few turns to be timed; give it more to do")
        return value


@contextmanager
def started(contestants: Sequence[Contestant]) -> Iterator[None]:
    """Wait until all are ready; end their processes afterwards in any case."""
    try:
        for contestant in contestants:
            contestant.wait_until_ready()
        yield
    finally:
        for contestant in contestants:
            contestant.stop()


def result_of(title: str, program: Program, threads: int = 1) -> Any:
    """What a program that takes no turns returns.

    Raises:
        UserError: It failed.
    """
    contestant = Contestant(title, program, threads)
    try:
        return contestant.result()
    finally:
        contestant.stop()


def race(teams: Mapping[str, Sequence[Contestant]], repeats: int) -> dict[str, list[float]]:
    """Let teams run in turns, one team at a time, and give the rate of each in every repeat.

    The processes of a team run at once. The first round, in which caches fill and programs compile, does not count;
    every other one goes through the teams the other way round.

    Args:
        teams: By name.
        repeats: At least 1.

    Returns:
        By team the work of all its processes over the time of the slowest, a number a repeat.

    Raises:
        UserError: A program failed.
    """
    turns = race_turns(teams, repeats)
    return {
        name: [sum(t.work for t in together) / max(t.seconds for t in together) for together in rounds]
        for name, rounds in turns.items()
    }


def race_turns(
    teams: Mapping[str, Sequence[Contestant]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[list[Turn]]]:
    """The same, with every turn of every process; without `warm_up` the first round counts, too."""
    turns: dict[str, list[list[Turn]]] = {name: [] for name in teams}
    with started([contestant for team in teams.values() for contestant in team]):
        for number in range(-int(warm_up), repeats):
            for name in list(teams) if number % 2 == 0 else reversed(list(teams)):
                for contestant in teams[name]:
                    contestant.go()
                together = [contestant.ended() for contestant in teams[name]]
                if number >= 0:
                    turns[name].append(together)
    return turns


def _carry_out(connection: Connection, program: Program, threads: int, seconds: float) -> None:
    import torch

    torch.set_num_threads(threads)
    try:
        connection.send(("result", program.run(Turns(connection, seconds))))
    except Enough:
        return
    except Exception as error:
        sentence = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        connection.send(("failed", " ".join(sentence.split())))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
