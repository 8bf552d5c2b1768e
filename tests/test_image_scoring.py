from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
import torch

from benchmark.data import Dataset
from benchmark.image_scoring import Targets, score_reconstructions
from benchmark.metrics.recognition import Recogniser, recogniser_network, trained_weights
from benchmark.metrics.reconstruction import METRICS, control_scores, score_images
from benchmark.seeds import Rng


@pytest.fixture(scope="module")
def recogniser(digits: Dataset) -> Recogniser:
    network = recogniser_network(digits.image_shape, 10, Rng("shape"))
    network.load_state_dict(trained_weights(digits.auxiliary, 10, Rng("tiny"), steps=60))
    return Recogniser(network.eval())


@pytest.fixture(scope="module")
def targets(digits: Dataset) -> Targets:
    return Targets.of(digits, "inference", "first ten", digits.test.select(torch.arange(10)))


def test_the_truth_is_identified_and_as_recognisable_as_it_is(targets: Targets, recogniser: Recogniser) -> None:
    _, scores, beside = score_reconstructions(targets.images[None], targets, recogniser)
    assert scores["identified"] == [1.0] * 10
    assert fmean(scores["recognised"]) == beside.scalars["recognition_of_truth"] > 0.5


def test_a_negative_is_read_after_its_alignment(targets: Targets, recogniser: Recogniser) -> None:
    _, scores, beside = score_reconstructions(1 - targets.images[None], targets, recogniser)
    assert fmean(scores["recognised"]) == beside.scalars["recognition_of_truth"]


def test_all_metrics_are_of_the_checkpoint_that_shows_most(targets: Targets, recogniser: Recogniser) -> None:
    noise = Rng("noise").uniform_like(targets.images)
    found, scores, _ = score_reconstructions(torch.stack([noise, targets.images, noise]), targets, recogniser)
    assert found == 1
    assert fmean(scores["identified"]) == fmean(scores["ssim_aligned"]) == 1.0


def test_a_constant_scores_as_its_control_does_in_every_metric(targets: Targets, recogniser: Recogniser) -> None:
    grey = torch.full_like(targets.images, 0.5)
    _, scores, beside = score_reconstructions(grey[None], targets, recogniser)
    assert scores == beside.controls["constant"]
    assert fmean(scores["identified"]) == beside.scalars["identification_chance"] == 0.01


def test_controls_have_every_metric_of_an_attack(targets: Targets, recogniser: Recogniser) -> None:
    _, scores, beside = score_reconstructions(targets.images[None], targets, recogniser)
    assert {tuple(sorted(metrics)) for metrics in beside.controls.values()} == {tuple(sorted(scores))}
    assert {len(values) for metrics in beside.controls.values() for values in metrics.values()} == {10}


def test_random_images_identify_nobody_more_often_than_by_chance(targets: Targets, recogniser: Recogniser) -> None:
    _, _, beside = score_reconstructions(targets.images[None], targets, recogniser)
    # 100 guesses of one in a hundred: five hits or more happen three times in a thousand.
    assert fmean(beside.controls["random_image"]["identified"]) < 0.05


def test_controls_are_those_of_the_reconstruction_metrics(targets: Targets) -> None:
    _, _, beside = score_reconstructions(targets.images[None], targets, None)
    plain = control_scores(targets.images, targets.dataset.auxiliary, targets.rng("controls"))
    for name, metrics in plain.items():
        for metric in METRICS:
            assert beside.controls[name][metric] == pytest.approx(metrics[metric], abs=1e-12)


def test_what_stands_beside_a_score_is_made_once_for_a_set_of_targets(targets: Targets) -> None:
    again = Targets.of(targets.dataset, "inference", "first ten", targets.dataset.test.select(torch.arange(10)))
    other = Targets.of(targets.dataset, "inference", "next ten", targets.dataset.test.select(torch.arange(10, 20)))
    first, second, third = (score_reconstructions(t.images[None], t, None)[2] for t in (targets, again, other))
    assert first is second is not third


def test_a_data_set_with_other_images_is_not_taken_for_the_same(targets: Targets) -> None:
    moved = replace(targets.dataset, auxiliary=targets.dataset.auxiliary.select(torch.arange(100)))
    other = replace(targets, dataset=moved)
    first, second = (score_reconstructions(t.images[None], t, None)[2] for t in (targets, other))
    assert first.controls != second.controls


def test_training_targets_stand_beside_images_of_the_victims_own_part(digits: Dataset) -> None:
    targets = Targets.of(digits, "training", "first ten", digits.victim.select(torch.arange(10)))
    among = score_reconstructions(targets.images[None], targets, None)[2].lineup
    own = {image.numpy().tobytes() for image in digits.victim.images}
    assert all(image.float().numpy().tobytes() in own for image in among.others)


def test_without_a_recogniser_nothing_is_said_of_recognition(targets: Targets) -> None:
    _, scores, beside = score_reconstructions(targets.images[None], targets, None)
    assert set(scores) == {*score_images(targets.images, targets.images), "identified", "identification_rank"}
    assert "recognition_of_truth" not in beside.scalars
