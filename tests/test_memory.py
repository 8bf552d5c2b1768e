from __future__ import annotations

from mmap import mmap

import pytest
import torch

from benchmark.memory import no_memory, peak_memory, restart_peak_memory

MANY = 64 * 1024**2


def take_and_give_back() -> None:
    # A mapping of its own: what an allocator hands out may be memory that the process held already.
    with mmap(-1, MANY) as fresh:
        torch.frombuffer(fresh, dtype=torch.uint8).fill_(1)


def test_the_peak_counts_what_was_freed_since() -> None:
    restart_peak_memory()
    before = peak_memory()
    take_and_give_back()
    assert peak_memory() - before > MANY // 2


def test_a_restarted_peak_forgets_what_was_freed_before() -> None:
    restart_peak_memory()
    take_and_give_back()
    high = peak_memory()
    restart_peak_memory()
    assert high - peak_memory() > MANY // 2


def test_what_the_allocator_says_when_memory_is_short_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert no_memory(refused.value)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_errors_of_python_and_of_accelerators_are_recognised(error: Exception) -> None:
    assert no_memory(error)


@pytest.mark.parametrize("said", ["could not create a primitive", "could not execute a primitive"])
def test_what_a_library_says_whose_workspace_finds_no_memory_is_recognised(said: str) -> None:
    assert no_memory(RuntimeError(said))


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("not enough memory")])
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    assert not no_memory(error)
