"""How a worker's process keeps the memory that tensors come and go in."""

from __future__ import annotations

import os

# Bytes, for glibc's allocator (GNU C Library manual, "Memory Allocation Tunables"): smaller blocks come from memory
# that the process keeps, until so many are free at its end, and that grows by so many.
_KEPT_BELOW = 128 * 2**20
_KEPT_AT_MOST = 256 * 2**20
_STEP = 32 * 2**20


def allocator_settings() -> dict[str, str]:
    """Environment variables with which a child process keeps memory and takes it in large pages.

    Every step of an attack makes and frees the same tensors. Given back and taken anew, each of their pages is cleared
    by the system first. Where the C library is another, they mean nothing; what the user has set stays.
    """
    if "GLIBC_TUNABLES" in os.environ:
        return {}
    tunables = {"mmap_threshold": _KEPT_BELOW, "trim_threshold": _KEPT_AT_MOST, "top_pad": _STEP, "hugetlb": 1}
    return {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items())}
