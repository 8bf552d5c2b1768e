"""Calls of the compiled code: what every lane goes through, one lane after the other."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from benchmark.compiled.library import library

Name = Literal["filtered", "filtered_back", "narrow", "narrow_back", "channels_first", "channels_last"]
# Three lists of `lanes.h` and `form.h`, in their order.
_NAMES: tuple[Name, ...] = ("filtered", "filtered_back", "narrow", "narrow_back", "channels_first", "channels_last")
_SIZES = ("images", "height", "width", "in", "out", "high", "wide", "stride", "top", "left")
_SWITCHES = ("rectified", "pooled", "rounded")
_MOST_PARTS = 7
# Products of direct convolutions below which starting threads takes longer than they save: some milliseconds of them.
_WORTH_A_THREAD = 500_000_000


class Form(ctypes.Structure):
    """`Form` of `form.h`: sizes and switches in the order given there."""

    _fields_ = [(name, ctypes.c_long) for name in (*_SIZES, *_SWITCHES)]


@dataclass(frozen=True)
class OneLane:
    """Memory that a lane finds as the one before has left it, and writes over; in each thread another."""

    numbers: int
    dtype: torch.dtype


# Of all lanes, dense, with lanes first; of the one that is under way; or missing.
Part = Tensor | OneLane | None


@dataclass(frozen=True)
class Call:
    """A function of `lanes.h` and its arguments between the form and the space, in its order."""

    name: Name
    form: Form
    parts: tuple[Part, ...]


def each_lane(calls: Sequence[Call], lanes: int) -> None:
    """Every lane through all calls, on as many threads as PyTorch has if there is enough to do.

    Args:
        calls: In their order. A lane's results depend on nothing but its own parts.
        lanes: How many.
    """
    threads = min(torch.get_num_threads(), lanes)
    if threads == 1 or lanes * sum(map(_products, calls)) < _WORTH_A_THREAD:
        _some_lanes(calls, 0, lanes)
        return
    (first, last), *others = pairwise(lanes * thread // threads for thread in range(threads + 1))
    # Made anew each time: a pool that is kept would be without its threads in a forked process.
    with ThreadPoolExecutor(threads - 1) as pool:
        started = [pool.submit(_some_lanes, calls, *run) for run in others]
        _some_lanes(calls, first, last)
        for run in started:
            run.result()


def _products(call: Call) -> int:
    form = call.form
    return int(form.images * form.height * form.width * getattr(form, "in") * form.out * form.high * form.wide)


class _Step(ctypes.Structure):
    """`Step` of `lanes.h`."""

    _fields_ = [
        ("what", ctypes.c_long),
        ("form", Form),
        ("parts", ctypes.c_void_p * _MOST_PARTS),
        ("apart", ctypes.c_long * _MOST_PARTS),
    ]


def _some_lanes(calls: Sequence[Call], first: int, last: int) -> None:
    shared = {
        id(part): torch.empty(part.numbers, dtype=part.dtype, device="cpu")
        for call in calls
        for part in call.parts
        if isinstance(part, OneLane)
    }
    steps = (_Step * len(calls))()
    for step, call in zip(steps, calls, strict=True):
        step.what, step.form = _NAMES.index(call.name), call.form
        for at, part in enumerate(call.parts):
            if isinstance(part, Tensor):
                step.parts[at], step.apart[at] = part.data_ptr(), part.stride(0) * part.element_size()
            elif part is not None:
                step.parts[at] = shared[id(part)].data_ptr()
    run, space = _functions()
    run(steps, len(steps), first, last, _space(space(steps, len(steps))).data_ptr())


@cache
def _functions() -> tuple[Callable[..., None], Callable[..., int]]:
    code, steps = library().code, ctypes.POINTER(_Step)
    assert code is not None
    code.lanes.argtypes = [steps, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
    code.lanes_space.argtypes = [steps, ctypes.c_long]
    code.lanes.restype, code.lanes_space.restype = None, ctypes.c_long
    return code.lanes, code.lanes_space


_KEPT = threading.local()


def _space(numbers: int) -> Tensor:
    """Float32 numbers that calls write over; a thread keeps its own, which is in the processor's cache already."""
    space: Tensor | None = getattr(_KEPT, "space", None)
    if space is None or len(space) < numbers:
        space = _KEPT.space = torch.empty(numbers, dtype=torch.float32, device="cpu")
    return space
