from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.seeds import Rng
from benchmark.shield import shielded

ROOT = Path(__file__).resolve().parent.parent

DRAWS: dict[str, Callable[[], float]] = {
    "torch": lambda: float(torch.rand(1, device="cpu")),
    "numpy": lambda: float(np.random.rand()),  # noqa: NPY002
    "Python": random.random,
}
SETTINGS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "default type": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "default device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "gradient mode": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(not torch.is_grad_enabled())),
    "precision": (torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("medium")),
    "determinism": (
        torch.are_deterministic_algorithms_enabled,
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
    "working folder": (os.getcwd, lambda: os.chdir("/")),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_global_stream_starts_alike_in_every_block_of_one_name(draw: Callable[[], float]) -> None:
    found = []
    for _ in range(2):
        draw()
        with shielded(Rng("shield", 1)):
            found.append(draw())
    with shielded(Rng("shield", 2)):
        other = draw()
    assert found[0] == found[1] != other


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_global_stream_goes_on_after_the_block_where_it_was(draw: Callable[[], float]) -> None:
    with shielded(Rng("outer")):
        expected = [draw(), draw()]
    with shielded(Rng("outer")):
        first = draw()
        with shielded(Rng("inner")):
            draw()
        assert [first, draw()] == expected


@pytest.mark.parametrize(("read", "move"), SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("error", [None, ValueError("no"), SystemExit(3)], ids=["returns", "raises", "exits"])
def test_a_setting_is_put_back_however_the_block_ends(
    read: Callable[[], object], move: Callable[[], object], error: BaseException | None
) -> None:
    before = read()
    with suppress(ValueError, SystemExit), shielded(Rng("shield")):
        move()
        assert read() != before
        if error is not None:
            raise error
    assert read() == before


def test_tensors_are_made_on_the_cpu_again_without_a_mode_that_slows_every_call() -> None:
    modes = torch._C._len_torch_function_stack()
    with shielded(Rng("shield")):
        torch.set_default_device("meta")
    assert torch._C._len_torch_function_stack() == modes
    assert torch.ones(1).device.type == "cpu"


def test_the_stream_that_gives_the_seed_is_not_drawn_from() -> None:
    rng = Rng("shield")
    with shielded(rng):
        pass
    assert rng.normal((3,)).equal(Rng("shield").normal((3,)))


def test_a_working_folder_that_is_gone_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with shielded(Rng("shield")):
        drawn = DRAWS["torch"]()
    assert 0 <= drawn < 1


_FORKS = """
import os
from benchmark.seeds import Rng
from benchmark.shield import shielded
here = os.getpid()
for how in ("goes on", "raises"):
    with shielded(Rng("shield")):
        child = os.fork()
        if child == 0 and how == "raises":
            raise ValueError("in the child")
    print(how, os.getpid() == here, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_forked_process_ends_with_the_block_however_it_leaves_it() -> None:
    ran = subprocess.run([sys.executable, "-c", _FORKS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "goes on True 0\nraises True 0\n"
    assert ran.stderr == ""
