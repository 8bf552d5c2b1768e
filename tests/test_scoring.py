from __future__ import annotations

import pytest

from benchmark.scoring import _converged


@pytest.mark.parametrize(
    ("trace", "residual", "converged"),
    [
        ({}, 0.0, True),
        ({"loss": [4.0, 2.0, 1.0, 0.5]}, 0.0, False),
        ({"loss": [4.0, 1.0, 1.0, 0.995]}, 0.0, True),
        ({"loss": [4.0, 1.0, 1.0, 1.5]}, 0.0, False),
        ({"loss": [4.0, 2.0, 1.0, 0.5]}, 0.45, True),
        ({"training_loss": [4.0, 2.0, 1.0, 0.5]}, 0.45, False),
        ({"training_loss": [4.0, 2.0, 1.0, 1.0]}, 0.0, True),
    ],
    ids=["closed form", "falling", "at rest", "rising", "at the noise", "decoder falling", "decoder at rest"],
)
def test_an_attack_has_converged_when_its_loss_rests_or_reaches_the_truths(
    trace: dict[str, list[float]], residual: float, converged: bool
) -> None:
    assert _converged(trace, residual) is converged
