"""How often a 95 % interval holds the truth, in simulated worlds where the truth is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmark.comparison import difference
from benchmark.metrics.statistics import Sample, interval, worst_scores

DOCS = Path(__file__).parent.parent / "docs" / "scoring.md"
MEANS, CONTROL, CHANGE = (0.60, 0.57), 0.2, 0.1
SEEDS = (2, 3, 5)


@dataclass(frozen=True)
class World:
    """Standard deviations of what images share over victims, victims over images, and what neither shares."""

    image: float
    victim: float
    rest: float
    n: int


# Components of variance of aligned SSIM in smoke-v1, over its 43 attacks on inputs with two victims and ten images.
MEASURED = World(image=0.062, victim=0.017, rest=0.043, n=10)
WORLDS = {"as measured": MEASURED, "victims differ most": World(image=0.03, victim=0.10, rest=0.05, n=20)}


def cells(world: World, name: str, levels: list[float], images: np.ndarray, rng: np.random.Generator) -> list[Sample]:
    """One attack on one victim a level."""
    found = []
    for seed, level in enumerate(levels):
        score = level + images + rng.normal(0, world.rest, world.n)
        found.append(Sample(seed, 0, name, score, {"c": np.full(world.n, CONTROL)}, np.ones(world.n)))
    return found


def coverage(world: World, n_seeds: int, repetitions: int) -> float:
    """Share of intervals that hold the true worst of two attacks."""
    rng = np.random.default_rng(2024)
    truth = (max(MEANS) - CONTROL) / (1 - CONTROL)
    held = 0
    for repetition in range(repetitions):
        images = rng.normal(0, world.image, world.n)
        attacks = [
            cells(world, f"r{repetition}", [mean + rng.normal(0, world.victim) for _ in range(n_seeds)], images, rng)
            for mean in MEANS
        ]
        low, high = interval(worst_scores(attacks, resamples=400)[1])
        held += low <= truth <= high
    return held / repetitions


def paired_coverage(world: World, n_seeds: int, repetitions: int) -> float:
    """Share of intervals that hold the true change of leakage, where victims share half their variance."""
    rng = np.random.default_rng(7)
    held = 0
    for repetition in range(repetitions):
        images = rng.normal(0, world.image, world.n)
        shared = rng.normal(0, world.victim / np.sqrt(2), n_seeds)
        with_, without = (
            cells(
                world,
                f"p{repetition}",
                [mean + common + rng.normal(0, world.victim / np.sqrt(2)) for common in shared],
                images,
                rng,
            )
            for mean in (MEANS[0] - CHANGE, MEANS[0])
        )
        found = difference([with_], [without])
        held += found.low <= -CHANGE / (1 - CONTROL) <= found.high
    return held / repetitions


def documented(what: str) -> list[float]:
    """The row of the table of coverages that begins so."""
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| {what}"))
    return [float(cell) for cell in re.findall(r"(?<=\| )0?\.\d+(?= \|)", row)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_intervals_cover_what_the_documentation_says(name: str) -> None:
    assert [round(coverage(WORLDS[name], n, 1000), 2) for n in SEEDS] == documented(f"leakage, {name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_intervals_of_a_change_cover_what_the_documentation_says(name: str) -> None:
    assert [round(paired_coverage(WORLDS[name], n, 300), 2) for n in SEEDS] == documented(f"change, {name}")


@pytest.mark.parametrize("n_seeds", SEEDS)
def test_a_few_hundred_intervals_cover_about_what_the_documentation_says(n_seeds: int) -> None:
    stated = documented("leakage, as measured")[SEEDS.index(n_seeds)]
    # Two standard errors of a share of 250.
    assert coverage(MEASURED, n_seeds, 250) == pytest.approx(stated, abs=0.045)


def test_images_that_all_seeds_share_are_resampled_together() -> None:
    # With no seed effect at all, images alone must carry the interval: drawing them anew for each of five seeds
    # would average most of their spread away and cover about .6.
    assert coverage(World(image=0.10, victim=0.0, rest=0.01, n=20), 5, 300) >= 0.88
