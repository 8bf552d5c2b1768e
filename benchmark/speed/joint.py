"""The line on the joint clone: how soon it shows what the published loop shows after its full budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmark.speed.line import BY_NAME, Measured, Spread, short
from benchmark.speed.processes import Turns, result_of
from benchmark.speed.scene import Scene
from benchmark.speed.scored import timed
from benchmark.speed.setting import Setting
from benchmark.speed.throughput import CUT, STEPS, loop_seconds

ATTACK = (
    "unsplit:clone=joint,restarts=16,select=consensus,rounds={rounds},checkpoints={checkpoints},input_steps=20,"
    "model_steps=20,input_lr=0.005,model_lr=0.005,jitter=0.05"
)
MODEL = "mnist_net"
# What the published loop reached with its full budget: ten MNIST digits, pool1.
SSIM = 0.52
SEEDS = (0, 1, 2)
_LONGEST = 16


@dataclass(frozen=True)
class Reached:
    """How many rounds it takes.

    Attributes:
        rounds: The fewest with which the mean over the seeds is there, or None if the longest budget is too short.
        seconds: Of the attack's `run` with just that budget, a seed each.
        scores: Mean aligned SSIM at its end, a seed each.
    """

    rounds: int | None
    seconds: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """Looks for the shortest budget, then runs the attack with just that one.

    Attributes:
        spec: The attack, with places for `rounds` and `checkpoints`.
        scenes: A victim a seed.
        ssim: What the mean over the seeds must reach.
        longest: Rounds to look among.
    """

    spec: str
    scenes: Sequence[Scene]
    ssim: float
    longest: int

    def run(self, turns: Turns) -> Reached:
        """Takes no turns. The search itself is not timed; it also warms up what a long run would find warm."""
        text = self.spec.format(rounds=self.longest, checkpoints=self.longest)
        curves = [timed(text, scene)[1] for scene in self.scenes]
        means = [sum(at) / len(at) for at in zip(*curves, strict=True)]
        reached = [number for number, mean in enumerate(means, 1) if mean >= self.ssim]
        for rounds in reached:
            runs = [timed(self.spec.format(rounds=rounds, checkpoints=1), scene) for scene in self.scenes]
            scores = tuple(curve[-1] for _, curve in runs)
            # An attack may plan by its whole budget, so that a shorter one is not the beginning of a longer one.
            if sum(scores) / len(scores) >= self.ssim:
                return Reached(rounds, tuple(seconds for seconds, _ in runs), scores)
        return Reached(None, (), tuple(curve[-1] for curve in curves))


def joint(setting: Setting) -> list[Measured]:
    """The line `joint`."""
    data, epochs = ("mnist-5k", 5) if setting.data_root is None else ("mnist", 1)
    root = None if setting.data_root is None else str(setting.data_root)
    scene = Scene(data, MODEL, CUT, 1, str(setting.cache / "trained"), epochs, data_root=root)
    scenes = tuple(replace(scene, seed=seed) for seed in SEEDS)
    found: Reached = result_of("joint clone", Search(ATTACK, scenes, SSIM, _LONGEST))
    shown = ", ".join(f"{score:.3f}" for score in found.scores)
    spec = ATTACK.format(rounds=found.rounds or _LONGEST, checkpoints=1)
    where = f"`{data}`, the first test image of each class, victims trained for {epochs} epochs"
    if found.rounds is None:
        return [
            Measured(BY_NAME["joint"], None, (f"Not reached in {_LONGEST} rounds ({shown}): `{spec}` on {where}.",))
        ]
    step = loop_seconds(setting, MODEL)
    full = step * STEPS * 10
    mean = sum(found.seconds) / len(found.seconds)
    ratios = [full / seconds for seconds in found.seconds]
    facts = (
        f"`{spec}` on {where}; victim and attack seeds {SEEDS}: mean aligned SSIM {shown} after "
        f"{', '.join(f'{seconds:.2f}' for seconds in found.seconds)} s.",
        f"Full budget of the {setting.loop}: {short(1e3 * step)} ms x {STEPS} steps x 10 images = {full:.0f} s.",
    )
    return [Measured(BY_NAME["joint"], Spread(full / mean, min(ratios), max(ratios), len(ratios)), facts)]
