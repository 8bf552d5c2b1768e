"""Files of tensors that are whole or reported as broken: written atomically, checked when read, never pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.cell import canonical_json
from benchmark.errors import UserError
from benchmark.files import write_atomically

# One entry holds everything: safetensors writes several in no fixed order, and equal contents should be equal bytes.
_ENTRY = "unsplit-bench"


class BrokenFileError(UserError):
    """A file of tensors is not what was written: cut short, changed, or something else altogether."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata to `path`, atomically: at any moment the file is the old one or the new one, whole.

    Equal contents give equal bytes.

    Args:
        path: A `.safetensors` file; its folder is made where it is missing.
        tensors: By name; any shape, type and device. They are read back on the CPU, contiguous.
        metadata: Texts to keep with them.

    Raises:
        UserError: The file cannot be written.
    """
    # Copies: safetensors refuses tensors that share storage, as tied weights do.
    own = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    entry = {"metadata": dict(metadata), "sha256": tensors_digest(own, metadata)}
    write_atomically(path, save(own, {_ENTRY: canonical_json(entry)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata that `save_tensors` wrote to `path`.

    Raises:
        FileNotFoundError: There is no such file.
        BrokenFileError: What it holds is not what was written; whoever can should make it again.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            entry = json.loads((file.metadata() or {})[_ENTRY])
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
        metadata, expected = dict(entry["metadata"]), str(entry["sha256"])
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise BrokenFileError(f"{path} is not a whole file of tensors ({cause}); delete it, it is made again") from None
    if tensors_digest(tensors, metadata) != expected:
        raise BrokenFileError(f"{path} does not match its checksum; delete it, it is made again")
    return tensors, metadata


def tensors_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256, 64 hex digits, over names, types, shapes and contents of contiguous tensors on the CPU, and metadata."""
    names = sorted(tensors)
    shapes = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest = hashlib.sha256(canonical_json([dict(metadata), shapes]).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
