from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from benchmark.data import Dataset, Part
from benchmark.errors import UserError
from benchmark.metrics import recognition
from benchmark.metrics.recognition import (
    Recogniser,
    obtain_recogniser,
    recogniser_key,
    recogniser_network,
    trained_weights,
    unseen,
    varied,
)
from benchmark.seeds import Rng


def read(weights: dict[str, torch.Tensor], shape: tuple[int, int, int], n_classes: int) -> Recogniser:
    network = recogniser_network(shape, n_classes, Rng("shape"))
    network.load_state_dict(weights)
    return Recogniser(network.eval())


@pytest.fixture(scope="module")
def recogniser(digits: Dataset) -> Recogniser:
    return read(trained_weights(digits.auxiliary, 10, Rng("tiny"), steps=150), (1, 28, 28), 10)


def rate(recogniser: Recogniser, images: torch.Tensor, part: Part) -> float:
    return fmean(recogniser.recognised(images, part.labels))


def test_it_reads_digits_that_it_was_not_trained_on(recogniser: Recogniser, digits: Dataset) -> None:
    assert rate(recogniser, digits.test.images, digits.test) > 0.9


def test_it_reads_blurred_and_noisy_digits(recogniser: Recogniser, digits: Dataset) -> None:
    noisy = varied(digits.test.images, Rng("noise"))
    assert rate(recogniser, noisy, digits.test) > 0.8


def test_brightness_and_contrast_do_not_matter_to_it(recogniser: Recogniser, digits: Dataset) -> None:
    moved = 0.01 * digits.test.images + 0.7
    same = recogniser.labels(moved) == recogniser.labels(digits.test.images)
    assert same.float().mean() > 0.99


def test_it_reads_one_label_off_every_constant_image(recogniser: Recogniser) -> None:
    greys = torch.linspace(0, 1, 7).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    assert len(set(recogniser.labels(greys).tolist())) == 1


def test_it_reads_nothing_off_noise(recogniser: Recogniser, digits: Dataset) -> None:
    assert rate(recogniser, Rng("noise").uniform_like(digits.test.images), digits.test) < 0.2


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 11, 40)])
def test_images_of_any_shape_can_be_learned(shape: tuple[int, int, int]) -> None:
    # Two kinds of stripes.
    labels = torch.arange(40) % 2
    stripes = (torch.arange(shape[2]) // 3 % 2).float().expand(shape[1], -1)
    upright = torch.nn.functional.interpolate(stripes.T[None, None], shape[1:])[0, 0]
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes, upright).expand(-1, *shape).contiguous()
    part = Part(images, labels, torch.arange(40))
    assert rate(read(trained_weights(part, 2, Rng("stripes"), steps=40), shape, 2), images, part) > 0.9


def test_equal_streams_train_equal_weights_and_others_do_not(digits: Dataset) -> None:
    first, again, other = (trained_weights(digits.auxiliary, 10, Rng("w", n), steps=3) for n in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_moves_no_global_stream(digits: Dataset) -> None:
    before = torch.random.get_rng_state()
    trained_weights(digits.auxiliary, 10, Rng("w"), steps=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_under_attack_are_left_out_of_its_training(digits: Dataset) -> None:
    own = digits.auxiliary.select(torch.arange(20))
    shared = Part(
        torch.cat([own.images, digits.test.images[:3], digits.victim.images[:2]]),
        torch.cat([own.labels, digits.test.labels[:3], digits.victim.labels[:2]]),
        torch.arange(25),
    )
    assert unseen(replace(digits, auxiliary=shared)).ids.tolist() == list(range(20))


def test_a_data_set_without_images_of_its_own_to_train_on_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match="give it auxiliary images of their own"):
        unseen(replace(digits, auxiliary=digits.test))


@pytest.fixture
def few(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(recognition, "FEWEST_STEPS", 2)
    monkeypatch.setattr(recognition, "MOST_STEPS", 2)
    return replace(digits, name="few")


def state(recogniser: Recogniser) -> dict[str, torch.Tensor]:
    return recogniser.network.state_dict()


def test_it_is_trained_once_and_then_read_from_the_cache(few: Dataset, tmp_path: Path) -> None:
    first = state(obtain_recogniser(few, tmp_path))
    (file,) = tmp_path.iterdir()
    assert file.name == f"{recogniser_key(few)}.safetensors"
    # A data set that cannot be trained on shows that nothing is.
    again = state(obtain_recogniser(replace(few, auxiliary=few.test), tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_broken_file_in_the_cache_is_made_again(few: Dataset, tmp_path: Path) -> None:
    first = state(obtain_recogniser(few, tmp_path))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    again = state(obtain_recogniser(few, tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_its_key_follows_the_data_and_its_version(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    key = recogniser_key(digits)
    assert recogniser_key(replace(digits, digest="0" * 64)) != key
    monkeypatch.setattr(recognition, "RECOGNISER_VERSION", recognition.RECOGNISER_VERSION + 1)
    assert recogniser_key(digits) != key
