"""How a measurement of speed was asked for, and the machine that it is made on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmark.compiled.agreement import state
from benchmark.environment import environment
from benchmark.executors.cores import cores

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Setting:
    """What all lines share.

    Attributes:
        cache: Folder for victims and outputs, empty to begin with.
        repeats: Turns of each program that count, at least 1.
        workers: Processes of one thread on the side that uses all cores.
        reference: Checkout of the published code, or None for the plain loop.
        data_root: Folder of the data sets, or None.
        turn: Seconds that a turn lasts at least.
        step_seconds: What a step of the loop that is compared with took, by model: the median at the thread count at
            which it is fastest. Filled as lines are measured, so that each is measured once.
    """

    cache: Path
    repeats: int = 5
    workers: int = 1
    reference: Path | None = None
    data_root: Path | None = None
    turn: float = 1.0
    step_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def loop(self) -> str:
        """Which loop is compared with, in words."""
        return "plain loop of this benchmark" if self.reference is None else "published loop"


def machine(workers: int) -> list[tuple[str, str]]:
    """What the numbers depend on, name and value; call it before anything is measured, for the load."""
    try:
        load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    except OSError:
        load = "unknown"
    facts = environment()
    return [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", _processor()),
        ("cores", f"{cores()} of {os.cpu_count()} usable"),
        ("system", f"{facts['platform']}, Python {facts['python']}, torch {facts['torch']}"),
        ("vector instructions", str(torch.backends.cpu.get_cpu_capability())),
        ("convolutions of many lanes", state()),
        ("threads", f"{workers} process{'es' * (workers > 1)} of one thread; where two are tried, it is said"),
        ("load at the start", f"{load} (1, 5, 15 minutes)"),
        ("commit", facts.get("commit", "installed package")),
    ]


def _processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
