"""Whether a tensor holds only finite numbers: asked of everything that a plug-in gives."""

from __future__ import annotations

from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor, of any shape and type, is NaN or infinite."""
    # A sum is finite only where every number is, and takes a tenth of the time; where all are, it may still overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
