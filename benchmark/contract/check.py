"""One check: what was looked at, and in words what is wrong and what to do."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark.errors import UserError


class BrokenContractError(UserError):
    """What is wrong with a plug-in and what to do, in one sentence."""


class DisturbedError(BrokenContractError):
    """A plug-in moved something that the whole process shares."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        title: What must hold.
        problem: What is wrong and what to do, or None where it holds.
    """

    title: str
    problem: str | None = None


def tried(title: str, action: Callable[[], object]) -> Check:
    """Run a check; whatever it raises is its problem, with the line of the plug-in where it happened."""
    before = _globals()
    try:
        action()
    except UserError as error:
        return Check(title, str(error))
    except Exception as error:
        message = " ".join(str(error).split()) or "no message"
        return Check(title, f"{type(error).__name__}: {message} ({_place(error)}); correct it there")
    finally:
        _restore(before)
    return Check(title)


def _place(error: Exception) -> str:
    """The innermost line outside libraries: the plug-in's own, as a rule."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "benchmark" not in frame.filename]
    frame = (own or list(frames))[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


@contextmanager
def undisturbed(what: str) -> Iterator[None]:
    """Refuse a block that moves anything global: random streams, threads, default type, gradient mode.

    Raises:
        DisturbedError: It did; names what, and what to use instead.
    """
    before = _globals()
    try:
        yield
    finally:
        after = _globals()
        _restore(before)
    for name, value in before.items():
        if not np.array_equal(np.asarray(value[0]), np.asarray(after[name][0])):
            raise DisturbedError(f"{what} changes {name}; {value[1]}")


def _globals() -> dict[str, tuple[object, str]]:
    state = np.random.get_state(legacy=True)  # noqa: NPY002 - the global stream is what is looked at
    numpy_state = np.append(state[1], state[2])  # type: ignore[index]
    drawn = "draw from the rng it is given (rng.normal_like(z), rng.uniform_like(z), ...)"
    return {
        "torch's global random stream": (torch.random.get_rng_state().numpy(), drawn),
        "numpy's global random stream": (numpy_state, drawn),
        "Python's global random stream": (random.getstate()[1], drawn),
        "the number of threads": (torch.get_num_threads(), "leave torch.set_num_threads to the harness"),
        "torch's default type": (str(torch.get_default_dtype()), "give tensors their type, dtype=z.dtype"),
        "torch's gradient mode": (torch.is_grad_enabled(), "use `with torch.no_grad():`"),
    }


def _restore(before: dict[str, tuple[object, str]]) -> None:
    """Undo what would trouble the checks that follow; a random stream that was drawn from troubles none."""
    torch.set_num_threads(int(before["the number of threads"][0]))  # type: ignore[call-overload]
    torch.set_grad_enabled(bool(before["torch's gradient mode"][0]))
    torch.set_default_dtype(getattr(torch, str(before["torch's default type"][0]).removeprefix("torch.")))
