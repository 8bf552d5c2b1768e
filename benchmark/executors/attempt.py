"""One go at a group: its records as they come, and what stopped it if something did."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmark.cell import Group
from benchmark.errors import UserError
from benchmark.store import record_text

if TYPE_CHECKING:
    from benchmark.cell import Cell
    from benchmark.context import RunContext
    from benchmark.record import Record

Stage = Literal["training", "attack", "ended"]
OnRecord = Callable[["Record"], None]
OnProgress = Callable[[Group, Stage, float], None]
Wanted = Callable[[Group], bool]

_LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Failure:
    """Why a group could not be carried out.

    Attributes:
        reason: One sentence.
        traceback: Where, or None where the reason says it all.
        contained: Whether the process it happened in can be trusted with other groups: True only for the
            user's errors, which are raised on purpose.
    """

    reason: str
    traceback: str | None = None
    contained: bool = False


def attempt(
    group: Group, context: RunContext, progress: Callable[[Stage, float], None], *, attack: bool = True
) -> Iterator[Record | Failure]:
    """Train the group's victims and attack them: a record a cell and, if something stops it, a failure at the end.

    Args:
        group: What to run.
        context: Where and for which suite.
        progress: Called with `training` and then `attack`, and the done fraction of that stage, 0 to 1.
        attack: False to stop when the victims are trained.

    Raises:
        KeyboardInterrupt: The user stopped the run.
    """
    from benchmark import runner

    stage: Stage = "training"

    def reached(now: Stage, fraction: float) -> None:
        nonlocal stage
        stage = now
        progress(now, fraction)

    try:
        runner.train_victims(group, context, lambda fraction: reached("training", fraction))
        if not attack:
            return
        reached("attack", 0.0)
        for record in runner.run_group(group, context, lambda fraction: reached("attack", fraction)):
            record_text(record)  # what cannot be written down is the cell's failure, not the store's
            yield record
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        yield failure_of(error, stage)


def failure_of(error: BaseException, stage: Stage) -> Failure:
    """The failure that an exception amounts to; a plug-in's `sys.exit` is one, too."""
    if isinstance(error, UserError):
        return Failure(str(error), contained=True)
    if isinstance(error, SystemExit):
        what = f"called sys.exit({error.code!r})"
    else:
        message = " ".join(str(error).split())[:_LONGEST_MESSAGE]
        what = f"raised {type(error).__name__}" + (f": {message}" if message else "")
    return Failure(f"{what} {during(stage)}", "".join(traceback.format_exception(error)))


def during(stage: Stage) -> str:
    """`while ...`, for a reason."""
    return "while training the victims" if stage == "training" else "while attacking"


def after_failure(
    group: Group, missing: dict[str, Cell], failure: Failure, context: RunContext, on_record: OnRecord
) -> list[Group]:
    """What to run next: the cells still without a record, one by one; a cell that was alone already has failed.

    Args:
        group: What failed.
        missing: Its cells without a record, by key.
        failure: Why.
        context: Of the run.
        on_record: Given the record of a cell that has failed.
    """
    if len(group.cells) > 1:
        return [Group((cell,)) for cell in missing.values()]
    from benchmark import runner

    for cell in missing.values():
        on_record(runner.failed_record(cell, context, failure.reason, failure.traceback))
    return []
