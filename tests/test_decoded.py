"""Data sets that are decoded once and then read from their copy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import folders
from benchmark.data import Dataset, load_dataset
from benchmark.decoded import cache_home, decoded
from benchmark.errors import UserError


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path, digits: Dataset) -> Path:
    """Ten real digits in each of two class folders, as PNG files."""
    for label in (0, 1):
        folder = tmp_path / "pictures" / str(label)
        folder.mkdir(parents=True)
        of_class = digits.test.images[digits.test.labels == label][:10]
        for number, image in enumerate(of_class):
            Image.fromarray((image[0] * 255).numpy().astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def spec(pictures: Path) -> str:
    return f"image_folder:path={pictures},size=28,channels=1"


def copies() -> list[Path]:
    return list((cache_home() / "decoded").glob("*"))


def refuse() -> Dataset:
    raise UserError("the copy was not used")


def test_a_copy_is_the_data_set_itself(pictures: Path) -> None:
    first, again = load_dataset(spec(pictures)), load_dataset(spec(pictures))
    assert (first.name, first.digest, first.note, first.class_names) == (
        again.name,
        again.digest,
        again.note,
        again.class_names,
    )
    for title, part in first.parts().items():
        for name, value in vars(part).items():
            assert torch.equal(value, getattr(again.parts()[title], name)), f"{title}.{name}"


def test_the_second_load_opens_no_picture(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_dataset(spec(pictures))
    monkeypatch.setattr(folders, "read_images", lambda *_: pytest.fail("a picture was opened"))
    load_dataset(spec(pictures))


def test_a_changed_picture_is_read_again(pictures: Path) -> None:
    before = load_dataset(spec(pictures)).digest
    Image.fromarray(np.full((28, 28), 7, dtype=np.uint8)).save(pictures / "0" / "3.png")
    assert load_dataset(spec(pictures)).digest != before


def test_other_options_make_another_copy(pictures: Path) -> None:
    load_dataset(spec(pictures))
    assert load_dataset(f"image_folder:path={pictures},size=16,channels=1").image_shape == (1, 16, 16)
    assert len(copies()) == 2


def test_a_broken_copy_is_made_again(pictures: Path) -> None:
    before = load_dataset(spec(pictures)).digest
    (copy,) = copies()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-10])
    assert load_dataset(spec(pictures)).digest == before
    assert copy.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_no_result(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(load_dataset(spec(pictures)).class_names) == 2


def test_a_mistake_in_the_source_is_told_as_without_a_copy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the copy was not used"):
        decoded("some-set", tmp_path, refuse)
    assert not copies()
