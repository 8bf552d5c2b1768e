"""Gets the verdicts a run needs before its cells: released, kept, or measured now, at no cell's expense."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError
from benchmark.planted_process import LIMIT_SECONDS, measure_apart
from benchmark.planted_verdicts import Verdict, keep_verdict, known_verdict, measure, planted_reference, verdict_key

if TYPE_CHECKING:
    from benchmark.cell import Group, PluginRef
    from benchmark.context import RunContext

OnPlanted = Callable[["PluginRef", float, Verdict | None], None]


def with_verdicts(
    context: RunContext,
    groups: Iterable[Group],
    logs: Path,
    *,
    here: bool = False,
    on_planted: OnPlanted = lambda *_: None,
    limit_seconds: float = LIMIT_SECONDS,
) -> RunContext:
    """The context with a verdict for every attack of the groups, each measured once where nobody has before.

    Args:
        context: Of the run; verdicts it was given already are taken as they are.
        groups: What is to be run.
        logs: Folder for what child processes print.
        here: Measure in this process. An attack that lives only here is in any case.
        on_planted: Called with an attack that is measured, the share of its planted clients it has met and, at the
            end, its verdict.
        limit_seconds: What one attack may take; one that takes longer has failed.
    """
    if context.verdicts is not None:
        return context
    found: dict[str, Verdict] = {}
    folder = Path(context.cache)
    for ref in (group.cells[0].attack for group in groups):
        try:
            key = verdict_key(ref)
        except UserError:
            continue  # It cannot be loaded: its cells fail with that reason, and need no verdict.
        if key in found:
            continue
        verdict = known_verdict(key, folder)
        if verdict is None:
            verdict = _measured(planted_reference(ref), logs, here, on_planted, limit_seconds)
            keep_verdict(key, verdict, folder)
        found[key] = verdict
    return replace(context, verdicts={key: verdict.to_json() for key, verdict in found.items()})


def _measured(ref: PluginRef, logs: Path, here: bool, on_planted: OnPlanted, limit_seconds: float) -> Verdict:
    on_planted(ref, 0.0, None)
    if here or ref.source == "live":
        verdict = measure(ref, lambda _, done: on_planted(ref, done, None))
    else:
        log = logs / "planted.log"
        verdict = measure_apart(ref, log, lambda _, done: on_planted(ref, done, None), limit_seconds)
    on_planted(ref, 1.0, verdict)
    return verdict
