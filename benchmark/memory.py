"""The most memory that was in use at once since a given moment, and errors that say there is no more."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def restart_peak_memory() -> None:
    """Forget the peak so far, of the device and, on Linux, of the process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _RESET.exists():
        # 5 resets the peak resident set (Linux, proc(5)).
        _RESET.write_text("5")


def peak_memory() -> int:
    """Bytes in use at most since `restart_peak_memory`, or since the process began where no such count is kept."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.exists() else None
    if found:
        resident = int(found[1]) * 1024
    else:
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resident = usage if sys.platform == "darwin" else usage * 1024
    return max(resident, torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else resident


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on whatever device.

    PyTorch raises `torch.OutOfMemoryError` on accelerators, a plain `RuntimeError` from its allocator on the CPU
    ("DefaultCPUAllocator: can't allocate memory" on POSIX, "not enough memory" on Windows) or from a library
    ("could not create a memory object", or a primitive that it cannot make or run, oneDNN; "std::bad_alloc", C++).
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = (
        "can't allocate memory",
        "not enough memory",
        "bad_alloc",
        "could not create a memory",
        "could not create a primitive",
        "could not execute a primitive",
    )
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in said)
