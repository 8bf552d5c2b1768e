from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from benchmark.data import Dataset


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Two threads on a busy two-core machine were measured many times slower than one.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Decoded data sets are kept in the user's cache folder: tests have one of their own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits() -> Dataset:
    from benchmark.data import load_dataset

    return load_dataset("mnist-5k")
