"""The lines of the table of speed: what each compares, the floor it is held to, and what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Spread:
    """A number measured several times.

    Attributes:
        middle: The median, or what a line says it is instead.
        low, high: The smallest and the largest.
        n: How often it was measured, at least 1.
    """

    middle: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median, minimum and maximum of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Line:
    """What a line of the table compares.

    Attributes:
        name: For `--only`.
        what: What is measured.
        against: What it is held against.
        bound: The floor or ceiling.
        side: Whether the measured number must be `at least` or `at most` that.
        unit: `x` for a ratio, `s` for seconds, `%` for a share.
    """

    name: str
    what: str
    against: str
    bound: float
    side: Literal["at least", "at most"]
    unit: Literal["x", "s", "%"]

    def demand(self) -> str:
        """The floor in words."""
        return f"{self.side} {self.bound:g}{_spaced(self.unit)}"


@dataclass(frozen=True)
class Measured:
    """What came of a line.

    Attributes:
        line: Which.
        spread: In the line's unit, or None where it could not be measured.
        facts: What else is to be told, a sentence each; where it could not be measured, why.
    """

    line: Line
    spread: Spread | None
    facts: tuple[str, ...] = ()

    @property
    def met(self) -> bool | None:
        """Whether the median is on the right side of the bound; None where nothing was measured."""
        if self.spread is None:
            return None
        middle, bound = self.spread.middle, self.line.bound
        return middle >= bound if self.line.side == "at least" else middle <= bound

    def number(self) -> str:
        """The median with minimum and maximum."""
        if self.spread is None:
            return "—"
        unit = _spaced(self.line.unit)
        return f"{short(self.spread.middle)}{unit} ({short(self.spread.low)} to {short(self.spread.high)})"

    def verdict(self) -> str:
        """`yes`, `no` or `not measured`."""
        return {True: "yes", False: "no", None: "not measured"}[self.met]


def short(value: float) -> str:
    """Three digits, and no exponent for what is larger."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spaced(unit: str) -> str:
    return unit if unit == "x" else f" {unit}"


LINES = (
    Line(
        "mnist",
        "`unsplit` per target, code preset, `mnist_net` cut `pool1`, 40 targets: image-steps per second on all cores",
        "the published loop at the thread count at which it is fastest",
        25,
        "at least",
        "x",
    ),
    Line("cifar", "the same, `cifar_net` cut `pool1`, 10 targets, float32", "as above", 3, "at least", "x"),
    Line("cifar-bfloat16", "the same in bfloat16 (`precision=bfloat16`)", "as above", 5, "at least", "x"),
    Line(
        "joint",
        "joint clone, consensus of 16 restarts, `mnist_net` cut `pool1`, 10 targets: time to a mean aligned SSIM of "
        "0.52, mean of 3 seeds, one thread",
        "the published loop's full budget: its time a step x 200 000 x 10",
        100,
        "at least",
        "x",
    ),
    Line("lanes", "cost per lane at 40 lanes, as in the first line, one thread", "at 10 lanes", 1, "at most", "x"),
    Line(
        "strength",
        "CPU time that one more strength of a defense adds to a block of `smoke-v1`",
        "its share of the block's cells",
        1,
        "at most",
        "x",
    ),
    Line("complete", "`run` of a suite that is complete", "wall time", 3, "at most", "s"),
    Line("share", "scoring, store and report together", "a suite's time", 5, "at most", "%"),
    Line("loading", "60 000 images, any but the first time", "wall time", 2, "at most", "s"),
)
BY_NAME = {line.name: line for line in LINES}
