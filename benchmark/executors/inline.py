"""Runs groups in this process: for plug-ins that live only here, and for debuggers.

Nothing protects the process from a plug-in that hangs, exits hard or dies; `local` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmark.executors.attempt import Failure, OnProgress, OnRecord, Wanted, after_failure, attempt

if TYPE_CHECKING:
    from benchmark.cell import Group
    from benchmark.context import RunContext


def run(
    groups: Sequence[Group],
    context: RunContext,
    on_record: OnRecord,
    on_progress: OnProgress = lambda *_: None,
    wanted: Wanted = lambda _: True,
) -> None:
    """Run groups one after the other; a group that fails is split and its cells run one by one.

    Args:
        groups: In this order.
        context: Where and for which suite.
        on_record: Given each cell's record as it arrives, also those of cells that failed.
        on_progress: Called with a group, its stage and that stage's done fraction.
        wanted: Asked before a group starts; one that is not wanted any more is left out.

    Raises:
        KeyboardInterrupt: The user stopped the run; records so far have been handed over.
    """
    pending = deque(groups)
    while pending:
        group = pending.popleft()
        if not wanted(group):
            continue
        missing = {cell.key(): cell for cell in group.cells}
        failure = Failure("the runner gave no record for it")
        for outcome in attempt(group, context, partial(on_progress, group)):
            if isinstance(outcome, Failure):
                failure = outcome
            else:
                missing.pop(outcome.key, None)
                on_record(outcome)
        if missing:
            pending.extendleft(reversed(after_failure(group, missing, failure, context, on_record)))
        on_progress(group, "ended", 1.0)
