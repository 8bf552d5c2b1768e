"""An attack run to its end, and how well it did at each of its checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmark import registry
from benchmark.finding import Budget, Finding
from benchmark.metrics.reconstruction import score_images
from benchmark.observe import Observation
from benchmark.speed.processes import Turns
from benchmark.speed.scene import Scene


@dataclass(frozen=True)
class Scored:
    """An attack run to its end.

    Attributes:
        spec: The attack.
        scene: Whom it attacks.
    """

    spec: str
    scene: Scene

    def run(self, turns: Turns) -> list[float]:
        """Mean aligned SSIM over the targets at each checkpoint; takes no turns."""
        return timed(self.spec, self.scene)[1]


def timed(spec: str, scene: Scene) -> tuple[float, list[float]]:
    """Run an attack alone.

    Returns:
        Seconds that its `run` took, and the mean aligned SSIM over the targets at each of its checkpoints.
    """
    ref = registry.reference("attack", spec)
    attack, seen = registry.load_attack(ref), scene.observed_by(ref)
    started = time.perf_counter()
    (finding,) = attack.run([seen.view], Budget(), lambda _: None)
    return time.perf_counter() - started, _scores(finding, seen)


def _scores(finding: Finding, seen: Observation) -> list[float]:
    assert finding.reconstructions is not None  # what is timed here reconstructs
    each = (score_images(images, seen.truth.images)["ssim_aligned"] for images in finding.reconstructions)
    return [sum(values) / len(values) for values in each]
