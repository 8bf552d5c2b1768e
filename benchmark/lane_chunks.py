"""Work on many lanes in chunks that fit the memory, and in smaller ones where it turns out that they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from benchmark.lanes import chunks
from benchmark.memory import no_memory

Done = TypeVar("Done")


def chunked(n_lanes: int, lane_bytes: int, memory: int, work: Callable[[range], Done]) -> list[Done]:
    """What `work` gives for lanes 0 .. n_lanes-1, chunk by chunk in order.

    A chunk for which there is no memory after all is begun again as two halves, and none after it is longer than these.

    Args:
        n_lanes: How many lanes there are.
        lane_bytes: Bytes that a lane is expected to take.
        memory: Bytes that a chunk may take.
        work: Does the lanes of a range; independent of what it was called with before.

    Raises:
        RuntimeError: There is no memory for a single lane; `torch.OutOfMemoryError` and `MemoryError` likewise.
    """
    to_do = chunks(n_lanes, lane_bytes, memory)
    done = list[Done]()
    while to_do:
        run = to_do[0]
        try:
            done.append(work(run))
        except (MemoryError, RuntimeError) as error:
            if len(run) == 1 or not no_memory(error):
                raise
            # Only behind this block the error lets go of its frames, and with them of what the chunk had made.
            most = -(-len(run) // 2)
        else:
            most = 0
        if most:
            shorter = [(part, run.start) for run in to_do for part in chunks(len(run), 1, most)]
            to_do = [range(start + part.start, start + part.stop) for part, start in shorter]
        else:
            to_do = to_do[1:]
    return done


def rising(progress: Callable[[float], None]) -> Callable[[float], None]:
    """Progress that never falls: a chunk that is begun again takes back nothing that was told."""
    told = 0.0

    def tell(fraction: float) -> None:
        nonlocal told
        told = max(told, fraction)
        progress(told)

    return tell
