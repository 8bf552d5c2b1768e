"""The lines on what a user waits for although nothing is computed: a complete suite, and loading data."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.data import data_root, load_dataset
from benchmark.digest import HARNESS
from benchmark.errors import DataMissingError, UserError
from benchmark.plan import plan
from benchmark.run import records_of
from benchmark.speed.line import BY_NAME, Measured, Spread, short
from benchmark.speed.processes import Turns, result_of
from benchmark.speed.setting import Setting
from benchmark.speed.suite_runs import run_whole
from benchmark.store import Store
from benchmark.suite import load_suite

# The first whose released records answer all of it.
RELEASED = ("smoke-v1", "smoke-v2")
SMALL = """\
name: small
description: Stands in for a released suite.
dataset: mnist-5k
model: mnist_net
seeds: [0, 1]
training: {epochs: 1, batch_size: 256}
blocks:
  - name: inputs
    cuts: [pool1, pool2]
    defenses: [none, "gaussian_noise:relative=0.5"]
    attacks: ["unsplit:clone=joint,rounds=1,input_steps=2,model_steps=2"]
"""
_LIMIT_SECONDS = 120


def complete(setting: Setting) -> list[Measured]:
    """The line `complete`."""
    with tempfile.TemporaryDirectory(dir=setting.cache) as folder:
        answered = next((name for name in RELEASED if is_released(name)), None)
        if answered is not None:
            fresh = [_timed_run(answered, Path(folder) / f"out{at}") for at in range(setting.repeats)]
            again = [_timed_run(answered, Path(folder) / "out0") for _ in range(setting.repeats)]
            slower = max(fresh, again, key=lambda times: Spread.of(times).middle)
            facts = (
                f"`run {answered}` into a new folder, answered by the released records: {_seconds(fresh)} s; a second "
                f"time into the same folder, answered by its store: {_seconds(again)} s. The slower one counts.",
            )
            return [Measured(BY_NAME["complete"], Spread.of(slower), facts)]
        suite, out = Path(folder) / "small.yaml", Path(folder) / "out"
        suite.write_text(SMALL)
        made = plan(load_suite(suite))
        run_whole(made, out)
        again = [_timed_run(str(suite), out) for _ in range(setting.repeats)]
        fact = (
            f"No released records fit this version of the code, so a suite of {len(made.cells)} cells stands in: run "
            f"once before, then `run` again: {_seconds(again)} s."
        )
        return [Measured(BY_NAME["complete"], Spread.of(again), (fact,))]


def is_released(name: str) -> bool:
    """Whether released records of this version answer every cell of a suite that comes with the package."""
    try:
        made = plan(load_suite(name))
    except DataMissingError:
        return False
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
        found = records_of(made, store)
    return len(found) == len({cell.key() for cell in made.cells})


def loading(setting: Setting) -> list[Measured]:
    """The line `loading`."""
    line = BY_NAME["loading"]
    if not (data_root(setting.data_root) / "MNIST").is_dir():
        return [Measured(line, None, ("MNIST is not on this machine; name its folder with --data-root.",))]
    program = Loading("mnist", None if setting.data_root is None else str(setting.data_root))
    first = result_of("loading", program)
    seconds = [result_of("loading", program) for _ in range(setting.repeats)]
    fact = (
        f"`mnist`, 60 000 training and 10 000 test images, each time in a new process; the time before, {short(first)} "
        "s. Importing PyTorch does not count."
    )
    return [Measured(line, Spread.of(seconds), (fact,))]


@dataclass(frozen=True)
class Loading:
    """Loads a data set in a process that has loaded none.

    Attributes:
        dataset: Its name.
        root: Folder of the data sets, or None.
    """

    dataset: str
    root: str | None

    def run(self, turns: Turns) -> float:
        """Seconds it takes; takes no turns."""
        root = None if self.root is None else Path(self.root)
        started = time.perf_counter()
        load_dataset(self.dataset, root)
        return time.perf_counter() - started


def _timed_run(suite: str, output: Path) -> float:
    command = [sys.executable, "-m", "benchmark.cli", "run", suite, "--output", str(output)]
    path = os.pathsep.join([str(HARNESS), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = time.perf_counter()
    try:
        ran = subprocess.run(
            command,
            cwd=output.parent,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"speed: `run {suite}` took over {_LIMIT_SECONDS} s although it is complete") from None
    seconds = time.perf_counter() - started
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"speed: `run {suite}` ended with {ran.returncode} ({last}); run it by itself to see why")
    return seconds


def _seconds(times: Sequence[float]) -> str:
    spread = Spread.of(times)
    return f"{short(spread.middle)} ({short(spread.low)} to {short(spread.high)})"
