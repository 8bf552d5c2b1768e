"""The running size of smashed data: what relative noise is scaled by, and absolute noise is compared with.

The root mean square (RMS) over all units and samples. It starts at that of the untrained head and follows the head as
it learns, as an exponential average of each training batch's mean square; at inference it is frozen. It is detached:
no gradient flows through the scale of the noise.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from benchmark.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmark.data import Part
    from benchmark.models import Split

KEY = "mean_square"

# Each batch counts a twentieth: after one epoch of 47 batches a tenth of the starting value is left.
_WEIGHT = 0.05
_FIRST_IMAGES = 256


def start(state: dict[str, Tensor], split: Split, data: Part, sent: Callable[[Tensor], Tensor] = lambda z: z) -> None:
    """Begin with the untrained head's output for the first 256 images, so that an untrained victim has an RMS too.

    Args:
        state: The defense's state.
        split: Holds the head.
        data: Holds the images.
        sent: What is measured of the head's output.
    """
    # A copy in evaluation mode: measuring must neither draw a dropout mask nor move a running mean.
    head = copy.deepcopy(split.head).eval()
    with torch.no_grad():
        state[KEY] = sent(head(data.images[:_FIRST_IMAGES])).square().mean()


def follow(state: dict[str, Tensor], z: Tensor) -> None:
    """Let one training batch of smashed data ([batch, ...], not empty) count."""
    latest = z.detach().square().mean()
    state[KEY] = state[KEY].lerp(latest, _WEIGHT) if KEY in state else latest


def rms(state: dict[str, Tensor], defense: str) -> Tensor:
    """The RMS so far, a scalar.

    Args:
        state: The defense's state.
        defense: Its name, for the error.

    Raises:
        PluginError: Nothing was measured yet.
    """
    if KEY not in state:
        raise PluginError(
            f"defense {defense}: protect_activations was called before anything was measured; "
            "call prepare first, or restore the defense's state"
        )
    return state[KEY].sqrt()
