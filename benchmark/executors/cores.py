"""How many processes and threads this machine has room for, so that they never share a core unasked."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use: of a Slurm step or a container, only those it is given."""
    from joblib import cpu_count

    return int(cpu_count())


def threads_asked_for() -> int:
    """Threads of a process: OMP_NUM_THREADS where that is a number, otherwise one."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def default_workers(threads: int) -> int:
    """Processes that have room on this machine with this many threads each, at least one."""
    return max(1, cores() // threads)
