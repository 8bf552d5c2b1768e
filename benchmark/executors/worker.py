"""A child process of an executor: reads groups, writes what becomes of them, one JSON object a line.

Tasks and events have pipes of their own, so that whatever a plug-in prints ends in the log. The process dies with
its parent, however that ends and whatever it is busy with.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmark.cell import Cell, Group
from benchmark.executors.attempt import Failure, Stage, attempt

_PR_SET_PDEATHSIG = 1
_PROGRESS_SECONDS = 0.2

Send = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> None:
    """Work off tasks until there are no more.

    Args:
        arguments: File descriptor to read tasks from, descriptor to write events to, process id of the parent,
            number of threads.
    """
    tasks_end, events_end, parent, threads = (int(argument) for argument in arguments)
    die_with(parent)
    for end in (tasks_end, events_end):
        os.set_inheritable(end, False)
    # A worker that hangs is told to show where, before it is killed.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)

    import torch

    from benchmark.context import RunContext

    torch.set_num_threads(threads)
    with os.fdopen(tasks_end, encoding="utf-8") as tasks, os.fdopen(events_end, "w", encoding="utf-8") as events:

        def send(event: dict[str, Any]) -> None:
            events.write(json.dumps(event, allow_nan=False) + "\n")
            events.flush()

        send({"event": "ready"})
        for line in tasks:
            task = json.loads(line)
            group = Group(tuple(Cell.from_json(cell) for cell in task["cells"]))
            last: dict[str, Any] = {"event": "done"}
            context = RunContext.from_json(task["context"])
            for outcome in attempt(group, context, _throttled(send), attack=task["attack"]):
                if isinstance(outcome, Failure):
                    last = {"event": "failure", **vars(outcome)}
                else:
                    send({"event": "record", "record": outcome.to_json()})
            send(last)


def die_with(parent: int) -> None:
    """Make sure that this process, and what it started, does not outlive the process `parent`."""
    if sys.platform == "linux":
        # The kernel does it even while a plug-in holds the interpreter's lock.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _throttled(send: Send) -> Callable[[Stage, float], None]:
    last: tuple[Stage | None, float] = (None, 0.0)

    def progress(stage: Stage, fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= _PROGRESS_SECONDS:
            last = (stage, now)
            send({"event": "progress", "stage": stage, "fraction": min(max(float(fraction), 0.0), 1.0)})

    return progress


if __name__ == "__main__":
    main(sys.argv[1:])
