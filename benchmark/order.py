"""The order in which samples are shown, which must tell nothing about them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.seeds import Rng


def blind_order(positions: Tensor, n: int, *name: object) -> Tensor:
    """Positions of a part's samples, in an order that depends on which they are and on `name`, not on their labels.

    Rules choose class by class; shown in that order, a sample's label could be read off its place. The part is shuffled
    once for each name, so that fewer samples keep the order they have among more.

    Args:
        positions: [k], int64, distinct, in a part of `n` samples.
        n: Size of the part.
        name: What the order is for: the data set's digest, the rule, the phase.

    Returns:
        The same positions, on the same device.
    """
    place = torch.empty(n, dtype=torch.int64, device="cpu")
    place[Rng("order", *name).permutation(n)] = torch.arange(n, device="cpu")
    return positions[place[positions.cpu()].argsort().to(positions.device)]
