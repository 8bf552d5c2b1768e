from __future__ import annotations

import torch

from benchmark.memory import peak_memory, restart_peak_memory

MANY = 64 * 1024**2


def test_the_peak_counts_what_was_freed_since() -> None:
    restart_peak_memory()
    before = peak_memory()
    large = torch.ones(MANY // 4)
    del large
    assert peak_memory() - before > MANY // 2


def test_a_restarted_peak_forgets_what_was_freed_before() -> None:
    restart_peak_memory()
    large = torch.ones(MANY // 4)
    high = peak_memory()
    del large
    restart_peak_memory()
    assert high - peak_memory() > MANY // 2
