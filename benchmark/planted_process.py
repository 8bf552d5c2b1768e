"""Measures an attack's verdict in a child process, which may hang or die without taking the run along.

Run as a program, with an attack, a file descriptor and the parent's process id, it is that child: it writes one JSON
line a score.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark import registry
from benchmark.cell import PluginRef
from benchmark.executors.process import environment_of
from benchmark.executors.worker import die_with
from benchmark.planted import DEMANDS, PlantedClient, PlantedScore, planted_clients
from benchmark.planted_verdicts import OnScore, Verdict, measure, verdict_of

LIMIT_SECONDS = 1800.0
_LOOK_SECONDS = 0.25


def measure_apart(
    ref: PluginRef, log: Path, on_score: OnScore = lambda *_: None, limit_seconds: float = LIMIT_SECONDS
) -> Verdict:
    """Run an attack on its planted clients in a process of its own.

    What it had not succeeded on when its time was over, or when its process died, counts as failed, with the reason.

    Args:
        ref: The attack with the parameters that it meets them with.
        log: File that what the process prints is appended to.
        on_score: Called with each score and the share of clients done.
        limit_seconds: For all clients together.
    """
    scores: list[PlantedScore] = []
    deadline = time.monotonic() + limit_seconds
    with _child(ref, log) as (process, events):
        unread, reason = b"", ""
        with selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            while not reason:
                if selector.select(_LOOK_SECONDS):
                    chunk = os.read(events, 1 << 16)
                    *lines, unread = (unread + chunk).split(b"\n")
                    for line in lines:
                        value = json.loads(line)
                        scores.append(PlantedScore(**value["score"]))
                        on_score(scores[-1], value["done"])
                    if not chunk:
                        reason = f"its process ended with code {process.wait()}; see {log.name}"
                elif time.monotonic() > deadline:
                    reason = f"exceeded {limit_seconds:g} s on planted clients"
    return verdict_of(ref, [*scores, *_missing(ref, scores, reason)])


def _missing(ref: PluginRef, scores: list[PlantedScore], reason: str) -> Iterator[PlantedScore]:
    met = {(score.client, score.goal) for score in scores}
    for client in _clients(ref):
        for goal in client.goals:
            if (client.title, goal) not in met:
                yield PlantedScore(client.title, goal, None, DEMANDS[goal][1], 0, 0.0, reason)


def _clients(ref: PluginRef) -> list[PlantedClient]:
    return planted_clients(registry.load_attack(ref))


@contextmanager
def _child(ref: PluginRef, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    events, writing = os.pipe()
    arguments = [json.dumps(asdict(ref)), str(writing), str(os.getpid())]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                # -P: a folder the user happens to stand in may hold an `attacks` of its own.
                [sys.executable, "-P", "-m", "benchmark.planted_process", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                start_new_session=True,
                env=environment_of(1),
            )
    except BaseException:
        os.close(events)
        raise
    finally:
        os.close(writing)
    try:
        yield process, events
    finally:
        # What its plug-in started goes along.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(events)


def main(arguments: list[str]) -> None:
    """Measure one attack."""
    ref, events_end, parent = PluginRef(**json.loads(arguments[0])), int(arguments[1]), int(arguments[2])
    die_with(parent)
    os.set_inheritable(events_end, False)

    import torch

    torch.set_num_threads(1)
    with os.fdopen(events_end, "w", encoding="utf-8") as events:

        def send(score: PlantedScore, done: float) -> None:
            value: dict[str, Any] = {"score": asdict(score), "done": done}
            events.write(json.dumps(value, allow_nan=False) + "\n")
            events.flush()

        measure(ref, send)


if __name__ == "__main__":
    main(sys.argv[1:])
