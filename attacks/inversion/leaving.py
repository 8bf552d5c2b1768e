"""Which lanes leave before the schedule is over: those at rest, and restarts that have fallen behind."""

from __future__ import annotations

import torch
from torch import Tensor

# A loss is at rest when over a tenth of the budget it stays within a hundredth: what the benchmark calls converged, but
# of all points in between. Before the tenth point, at 18 % of the budget, a plateau is taken for a start.
REST_POINTS, REST_RANGE, FIRST_POINTS = 5, 0.01, 10


def at_rest(trace: Tensor) -> Tensor:
    """Which lanes' losses are at rest, [L].

    Args:
        trace: [points, L], loss of each lane at the points so far, 50 in a whole budget.
    """
    if len(trace) < max(FIRST_POINTS, REST_POINTS + 1):
        return torch.zeros(trace.shape[1], dtype=torch.bool, device=trace.device)
    late = trace[-REST_POINTS - 1 :]
    highest, lowest = late.amax(0), late.amin(0)
    return highest - lowest <= REST_RANGE * highest


def behind(losses: Tensor, rivals: int) -> Tensor:
    """The half of each group with the higher losses, [L]; of an odd number the smaller part.

    Halving by the loss so far: Jamieson and Talwalkar (2016), one rung.

    Args:
        losses: [L], groups one after the other; NaN counts as the highest.
        rivals: Lanes of a group.
    """
    order = torch.nan_to_num(losses, nan=torch.inf).unflatten(0, (-1, rivals)).argsort(dim=1, stable=True)
    left = torch.zeros_like(order, dtype=torch.bool)
    left.scatter_(1, order[:, -(-rivals // 2) :], value=True)
    return left.flatten()
