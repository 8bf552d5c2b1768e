from __future__ import annotations

import pytest

from benchmark.scoring import _converged


@pytest.mark.parametrize(
    ("trace", "residual", "steps", "converged"),
    [
        ({}, 0.0, 0, True),
        ({}, 0.0, 9, False),
        ({"loss": [1.0]}, 0.0, 9, False),
        ({"loss": [4.0, 2.0, 1.0, 0.5]}, 0.0, 9, False),
        ({"loss": [4.0, 1.0, 1.0, 0.995]}, 0.0, 9, True),
        ({"loss": [4.0, 1.0, 1.0, 1.5]}, 0.0, 9, False),
        ({"loss": [4.0, 2.0, 1.0, 0.5]}, 0.45, 9, True),
        ({"training_loss": [4.0, 2.0, 1.0, 0.5]}, 0.45, 9, False),
        ({"training_loss": [4.0, 2.0, 1.0, 1.0]}, 0.0, 9, True),
    ],
    ids=[
        "closed form",
        "no trace",
        "one point",
        "falling",
        "at rest",
        "rising",
        "at the noise",
        "decoder falling",
        "decoder at rest",
    ],
)
def test_an_attack_has_converged_when_its_loss_rests_or_reaches_the_truths(
    trace: dict[str, list[float]], residual: float, steps: int, converged: bool
) -> None:
    assert _converged(trace, residual, steps) is converged
