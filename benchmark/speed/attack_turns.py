"""An attack that works in turns: its own full schedule, held up between rounds by its progress call."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark import registry
from benchmark.finding import Budget
from benchmark.speed.processes import Turns
from benchmark.speed.scene import Scene


@dataclass(frozen=True)
class AttackTurns:
    """Runs an attack as a run of a suite would, and counts image-steps by the progress that it tells.

    Attributes:
        spec: The attack.
        steps: Gradient steps that it spends on one target in all.
        scene: Whom it attacks.
    """

    spec: str
    steps: int
    scene: Scene

    def run(self, turns: Turns) -> None:
        """Attack, a turn after the other; whoever times it ends it long before it is done."""
        ref = registry.reference("attack", self.spec)
        attack, view = registry.load_attack(ref), self.scene.observed_by(ref).view
        reached = 0.0

        def progress(fraction: float) -> None:
            nonlocal reached
            done, reached = fraction - reached, fraction
            turns.did(done * self.steps * view.n)

        turns.ready()
        attack.run([view], Budget(), progress)
