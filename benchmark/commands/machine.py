"""`env`: what results made here would depend on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmark.cell import RESULTS_VERSION
from benchmark.compiled.agreement import state
from benchmark.data import data_root
from benchmark.environment import environment


def show_environment(root: Path | None) -> int:
    """Print versions, device, threads and where data sets are looked for."""
    for name, value in facts(root).items():
        print(f"{name:18}{value}")
    return 0


def facts(root: Path | None) -> dict[str, str]:
    """The same by name."""
    place = data_root(root)
    home = Path.home()
    shown = f"~/{place.relative_to(home)}" if place.is_relative_to(home) else str(place)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        **environment(),
        "cpu convolutions": state(),
        "results version": str(RESULTS_VERSION),
        "device": device,
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "data root": f"{shown} ({'there' if place.is_dir() else 'not there; needed by all data sets but mnist-5k'})",
    }
