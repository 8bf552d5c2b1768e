from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from benchmark.executors.allocator import allocator_settings
from benchmark.executors.process import environment_of

FAULTS_OF_A_SECOND_BLOCK = """
import resource
from torch import empty

empty(25_000_000).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
empty(20_000_000).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


def test_a_worker_is_started_with_the_settings() -> None:
    settings = allocator_settings()
    assert settings
    assert settings.items() <= environment_of(1).items()


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert environment_of(1)["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other settings")
def test_freed_memory_is_not_taken_from_the_system_again() -> None:
    # 80 MB in pages of 4 KiB are 19 532 of them.
    code = FAULTS_OF_A_SECOND_BLOCK
    said = subprocess.run([sys.executable, "-c", code], env=environment_of(1), capture_output=True, text=True)
    assert int(said.stdout) < 1000
