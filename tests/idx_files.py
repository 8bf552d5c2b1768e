"""Small data sets in the files that MNIST and Fashion-MNIST come in."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from benchmark.data import Dataset


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx_files(raw: Path, digits: Dataset, *, inverted: bool = False) -> None:
    """200 real training digits and 80 test digits, laid out as torchvision reads them; black on white if inverted."""
    raw.mkdir(parents=True)
    for group, part in (("train", digits.victim), ("t10k", digits.test)):
        chosen = part.select(torch.arange(200 if group == "train" else 80))
        pixels = (chosen.images[:, 0] * 255).round().to(torch.uint8).numpy()
        (raw / f"{group}-images-idx3-ubyte").write_bytes(idx(255 - pixels if inverted else pixels))
        (raw / f"{group}-labels-idx1-ubyte").write_bytes(idx(chosen.labels.to(torch.uint8).numpy()))
