"""Averaging over many views of the same samples: what is random hides less the more often it is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.base import Budget
from attacks.unsplit import UnSplit
from benchmark.cell import TargetRule
from benchmark.data import Dataset
from benchmark.metrics.reconstruction import score_images
from benchmark.observe import observe
from benchmark.victim import obtain_victim
from tests.specs import cell_of, victim_spec

ADAPTIVE = {
    "stance": "adaptive", "clone": "joint", "restarts": 4, "select": "consensus", "rounds": 10, "input_steps": 20,
    "model_steps": 20, "input_lr": 0.005, "model_lr": 0.005, "jitter": 0.05,
}  # fmt: skip


def shown(digits: Dataset, cache: Path, defense: str, views: int) -> float:
    """Mean aligned SSIM of one digit a class, the best of the checkpoints."""
    attack = UnSplit.configured(ADAPTIVE)
    spec = victim_spec(digits, defense, epochs=5)
    cell = cell_of(spec, "unsplit:stance=adaptive", targets=TargetRule(), views=views)
    seen = observe(cell, obtain_victim(spec, digits, cache, torch.device("cpu")), digits, attack)
    (finding,) = attack.run([seen.view], Budget(), lambda done: None)
    assert finding.reconstructions is not None
    return max(
        float(np.mean(score_images(images, seen.truth.images)["ssim_aligned"])) for images in finding.reconstructions
    )


# Of a dropout of 0.6 ten views leave one unit of 165 unseen: what is left for fifty to show is next to nothing.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "least_gain_of_fifty"), [("gaussian_noise:relative=2.0", 0.05), ("dropout:rate=0.6", 0.0)]
)
def test_ten_views_show_clearly_more_than_one_and_fifty_more_than_ten(
    defense: str, least_gain_of_fifty: float, digits: Dataset, tmp_path: Path
) -> None:
    one, ten, fifty = (shown(digits, tmp_path, defense, views) for views in (1, 10, 50))
    assert ten > one + 0.15
    assert fifty > ten + least_gain_of_fifty
