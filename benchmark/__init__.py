"""unsplit-bench: the harness that judges defenses for split learning by the attacks they must survive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.evaluation import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Loading torch takes seconds; whoever only lists names need not wait for it.
    if name == "evaluate":
        from benchmark.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
