from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.base import Budget, Finding
from attacks.shadow_decoder import ShadowDecoder
from benchmark.cell import TargetRule
from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.metrics.reconstruction import best_control, score_images
from benchmark.observe import Observation, observe
from benchmark.scoring import CONVERGED_FALL, score_finding
from benchmark.victim import obtain_victim
from benchmark.view import Knowledge
from tests.specs import WATCH, cell_of, victim_spec

CPU = torch.device("cpu")
QUICK = {"shadow_steps": 100, "epochs": 3}
Attacked = Callable[..., float]


def run(seen: Observation, **parameters: object) -> Finding:
    return ShadowDecoder.configured(parameters).run([seen.view], Budget(), lambda done: None)[0]


def shown(seen: Observation, finding: Finding) -> float:
    assert finding.reconstructions is not None
    return float(np.mean(score_images(finding.reconstructions[-1], seen.truth.images)["ssim_aligned"]))


@pytest.fixture(scope="module")
def seen_by(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Observation]:
    cache: Path = tmp_path_factory.mktemp("victims")

    def build(*defenses: str, stance: str = "oblivious", u_shaped: bool = False, **axes: object) -> Observation:
        topology = {"topology": "u_shaped", "tail": "fc3"} if u_shaped else {}
        watch = WATCH if axes.get("phase") == "training" else None
        spec = victim_spec(digits, *defenses, watch=watch, epochs=2, **topology)
        attack = ShadowDecoder.configured({"stance": stance})
        cell = cell_of(spec, f"shadow_decoder:stance={stance}", targets=TargetRule(), **axes)
        return observe(cell, obtain_victim(spec, digits, cache, CPU), digits, attack)

    return build


def test_a_client_is_decoded_without_a_query(seen_by: Callable[..., Observation]) -> None:
    seen = seen_by()
    finding = run(seen, shadow_steps=200, epochs=4)
    assert shown(seen, finding) >= 0.65


@pytest.mark.slow
def test_the_statistics_of_what_was_sent_make_the_difference(seen_by: Callable[..., Observation]) -> None:
    seen = seen_by()
    with_them, without = (run(seen, matching=matching, **QUICK) for matching in (2.0, 0.0))
    assert shown(seen, with_them) > shown(seen, without) + 0.05


@pytest.mark.slow
def test_a_body_between_head_and_tail_is_used_with_a_tail_of_its_own(seen_by: Callable[..., Observation]) -> None:
    seen = seen_by(u_shaped=True)
    assert shown(seen, run(seen, **QUICK)) >= 0.5


@pytest.mark.slow
def test_who_knows_the_noise_decodes_through_it(seen_by: Callable[..., Observation]) -> None:
    noise = "gaussian_noise:relative=1.0"
    oblivious, aware = (
        shown(seen, run(seen, stance=stance, **QUICK))
        for stance in ("oblivious", "aware")
        for seen in [seen_by(noise, stance=stance)]
    )
    assert aware > oblivious + 0.05


@pytest.mark.slow
def test_ten_views_show_an_adaptive_attacker_more_than_one(seen_by: Callable[..., Observation]) -> None:
    many, one = (
        shown(seen, run(seen, stance="adaptive", shadow_steps=40, epochs=1))
        for views in (10, 1)
        for seen in [seen_by("gaussian_noise:relative=2.0", stance="adaptive", views=views)]
    )
    assert many > one + 0.05


@pytest.mark.slow
def test_rounding_without_a_gradient_is_trained_through(seen_by: Callable[..., Observation]) -> None:
    seen = seen_by("quantisation:bits=2", stance="aware")
    assert shown(seen, run(seen, stance="aware", **QUICK)) >= 0.5


@pytest.mark.slow
def test_the_training_phase_is_decoded_from_its_last_epoch(seen_by: Callable[..., Observation]) -> None:
    seen = seen_by(phase="training", views=2)
    assert shown(seen, run(seen, **QUICK)) >= 0.5


@pytest.mark.slow
def test_equal_views_give_equal_images(seen_by: Callable[..., Observation]) -> None:
    one, other = (
        run(seen_by("gaussian_noise", stance="adaptive", views=2), stance="adaptive", shadow_steps=5, epochs=1)
        for _ in range(2)
    )
    assert one.reconstructions is not None
    assert other.reconstructions is not None
    assert torch.equal(one.reconstructions, other.reconstructions)


def test_it_needs_no_query_and_knows_the_defense_unless_oblivious() -> None:
    base = {Knowledge.ARCHITECTURE, Knowledge.AUXILIARY}
    assert ShadowDecoder().knowledge() == base
    for stance in ("aware", "adaptive"):
        assert ShadowDecoder.configured({"stance": stance}).knowledge() == {*base, Knowledge.DEFENSE}


def test_the_finding_says_when_it_was_taken(seen_by: Callable[..., Observation]) -> None:
    finding = run(seen_by(), images=100, shadow_steps=7, epochs=2)
    assert (finding.steps, list(finding.checkpoints)) == (15, [7, 15])
    assert finding.trace["step"] == [11, 15]


def test_a_run_cut_short_is_not_taken_for_one_at_rest(seen_by: Callable[..., Observation]) -> None:
    losses = run(seen_by(), shadow_steps=20, epochs=3).trace["training_loss"]
    assert losses[-2] - losses[-1] > CONVERGED_FALL * losses[-2]


def test_too_few_auxiliary_images_are_refused_by_name(
    seen_by: Callable[..., Observation], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_by()
    few = digits.auxiliary.select(torch.arange(10, device="cpu"))
    monkeypatch.setattr(type(seen.view), "auxiliary", few)
    with pytest.raises(UserError, match="shadow_decoder: the data set's auxiliary part has 10 images"):
        run(seen)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["pool1", "pool2"])
def test_the_default_leaks_most_of_an_undefended_client(cut: str, digits: Dataset, tmp_path: Path) -> None:
    spec = victim_spec(digits, cut=cut, epochs=5)
    victim = obtain_victim(spec, digits, tmp_path, CPU)
    cell = cell_of(spec, "shadow_decoder", targets=TargetRule())
    seen = observe(cell, victim, digits, ShadowDecoder())
    scores = score_finding(cell, victim, digits, seen, run(seen))
    assert scores.convergence["converged"]
    assert np.mean(scores.per_image["ssim_aligned"]) > best_control(scores.controls)[1] + 0.4
