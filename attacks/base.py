"""What an attack is: a class that turns what the server saw into findings, and nothing else.

An attack is one file with one class. It sets `name` and `version`, cites its source in its docstring, declares its
parameters as typed, bounded fields, its goals, its stances, and the knowledge it needs. It holds no truth: scoring is
the harness's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from benchmark.finding import Budget, Finding
from benchmark.parameters import Configured
from benchmark.view import Knowledge, Phase, ServerView, Topology

__all__ = ["Attack", "Budget", "Finding", "Goal", "Progress", "Stance"]

Goal = Literal["reconstruct", "steal", "infer_labels"]
Stance = Literal["oblivious", "aware", "adaptive"]
Progress = Callable[[float], None]


class Attack(Configured):
    """Base of all attacks.

    Attributes:
        goals: What its findings answer: `reconstruct`, `steal`, `infer_labels`.
        stances: Which forms of it there are: `oblivious` ignores the defense, `aware` knows it, `adaptive` averages
            over its randomness and over all views of a sample, or learns to undo it. The parameter `stance` picks one.
        role: `attack` counts against a defense; `reference` is shown beside it and never ranked.
        planted: Parameters it meets planted clients with, which hide nothing: the budget at which it has to succeed
            before its failures count; see `benchmark.planted`. What is not named stays at its default.
        phases: Phases it can work in.
        topologies: Topologies it can work in.
    """

    goals: ClassVar[tuple[Goal, ...]]
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious",)
    role: ClassVar[Literal["attack", "reference"]] = "attack"
    planted: ClassVar[Mapping[str, object]] = {}
    phases: ClassVar[tuple[Phase, ...]] = ("inference", "training")
    topologies: ClassVar[tuple[Topology, ...]] = ("vanilla", "u_shaped")

    stance: Stance = Field(
        "oblivious", description="whether it ignores the defense, knows it, or averages over and learns to undo it"
    )

    @field_validator("stance")
    @classmethod
    def _has_this_form(cls, value: Stance) -> Stance:
        if value not in cls.stances:
            raise ValueError(f"is no form of this attack; choose one of: {', '.join(cls.stances)}")
        return value

    def knowledge(self) -> frozenset[Knowledge]:
        """What must be granted beyond the protocol; may depend on parameters. Who knows the defense is granted it."""
        known = {Knowledge.ARCHITECTURE}
        return frozenset(known if self.stance == "oblivious" else known | {Knowledge.DEFENSE})

    def known_labels_per_class(self) -> int:
        """How many labels a class the attack wants to know (with `Knowledge.KNOWN_LABELS`)."""
        return 0

    @abstractmethod
    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack all views at once; they have equal shapes and knowledge.

        Args:
            views: One a victim. Never modify their tensors.
            budget: See `Budget`.
            progress: Call it with the done fraction, 0 to 1, now and then.

        Returns:
            One finding a view, in order.
        """
