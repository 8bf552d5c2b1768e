"""How much memory processes hold, and how much there is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_OF_A_PROCESS = re.compile(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", re.MULTILINE)
# A container's own limit, where it has one: of cgroups of version 2 and 1 (Linux, Admin Guide, cgroup-v2).
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SHARE = 0.9


def held_by_groups(groups: Iterable[int]) -> dict[int, int]:
    """Bytes that the processes of each process group hold for themselves, in memory and swapped out.

    What several map of one file, such as libraries, is not counted. Empty where there is no /proc (Linux has one).

    Args:
        groups: Ids of process groups.
    """
    held = dict.fromkeys(groups, 0)
    proc = Path("/proc")
    if not held or not proc.is_dir():
        return {}
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            group = os.getpgid(int(entry.name))
            if group in held:
                found = _OF_A_PROCESS.findall((entry / "status").read_text())
                held[group] += 1024 * sum(int(kilobytes) for kilobytes in found)
        except OSError:
            continue  # It has ended meanwhile, or is somebody else's.
    return held


def allowed() -> int:
    """Bytes that worker processes may hold together: nine tenths of what machine and container have."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    stated = [limit.read_text().strip() for limit in map(Path, _LIMITS) if limit.is_file()]
    return int(_SHARE * min([physical, *(int(size) for size in stated if size.isdecimal())]))
