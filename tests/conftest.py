from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from benchmark.data import Dataset


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Two threads on a busy two-core machine were measured many times slower than one.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    from benchmark.data import load_dataset

    return load_dataset("mnist-5k")
