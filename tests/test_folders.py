"""Folders of pictures, written with Pillow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.cell import TargetRule
from benchmark.data import choose_targets, load_dataset
from benchmark.errors import UserError
from benchmark.folders import read_images

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten different pictures, 12 pixels wide and 8 high, and things that are no pictures."""
    base = tmp_path / "private"
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (base / name).mkdir(parents=True)
        for number in range(1, 11):
            Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(base / name / f"img{number}.png")
    (base / "notes.txt").write_text("two classes")
    (base / "dogs" / ".DS_Store").write_bytes(b"\0")
    (base / ".cache").mkdir()
    return base


def spec(folder: Path, rest: str = ",size=16") -> str:
    return f"image_folder:path={folder}{rest}"


def test_each_class_is_cut_60_20_20(folder: Path) -> None:
    loaded = load_dataset(spec(folder))
    counts = {name: torch.bincount(part.labels).tolist() for name, part in loaded.parts().items()}
    assert counts == {"victim": [6, 6], "auxiliary": [2, 2], "test": [2, 2]}
    assert (loaded.class_names, loaded.image_shape, loaded.note) == (("cats", "dogs"), (3, 16, 16), "")


def test_no_picture_is_in_two_parts(folder: Path) -> None:
    loaded = load_dataset(spec(folder))
    assert torch.cat([part.ids for part in loaded.parts().values()]).sort().values.tolist() == list(range(20))


def test_a_picture_keeps_its_label_and_id(folder: Path) -> None:
    loaded = load_dataset(spec(folder))
    files = [folder / name / f"img{number}.png" for name in ("cats", "dogs") for number in range(1, 11)]
    for part in loaded.parts().values():
        expected = read_images([files[number] for number in part.ids.tolist()], size=16, channels=3)
        assert torch.equal((part.images * 255).round().to(torch.uint8), torch.from_numpy(expected))
        assert torch.equal(part.labels, part.ids // 10)


def test_a_part_keeps_its_pictures_in_natural_order(folder: Path) -> None:
    loaded = load_dataset(spec(folder))
    for label in (0, 1):
        ids = loaded.victim.ids[loaded.victim.labels == label].tolist()
        assert ids == sorted(ids)
    first = choose_targets(loaded.victim, TargetRule())
    assert loaded.victim.ids[first].tolist() == [
        int(loaded.victim.ids[loaded.victim.labels == c].min()) for c in (0, 1)
    ]


def test_a_new_picture_leaves_the_cut_of_another_class_as_it_was(folder: Path) -> None:
    before = load_dataset(spec(folder)).test
    Image.new("RGB", (9, 9), (1, 2, 3)).save(folder / "dogs" / "img11.png")
    after = load_dataset(spec(folder)).test
    assert torch.equal(before.ids[before.labels == 0], after.ids[after.labels == 0])


def test_the_digest_does_not_depend_on_where_the_folder_stands(folder: Path, tmp_path: Path) -> None:
    before = load_dataset(spec(folder))
    moved = folder.rename(tmp_path / "moved")
    assert load_dataset(spec(moved)).digest == before.digest


def test_the_digest_changes_with_one_pixel(folder: Path) -> None:
    before = load_dataset(spec(folder)).digest
    path = folder / "cats" / "img3.png"
    pixels = np.array(Image.open(path))
    pixels[4, 6] ^= 255
    Image.fromarray(pixels).save(path)
    assert load_dataset(spec(folder)).digest != before


def test_the_name_is_a_spec_that_loads_the_same_from_anywhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_dataset("image_folder:size=16,channels=1,path=private")
    assert loaded.name == f"image_folder:path={folder},size=16,channels=1"
    monkeypatch.chdir(folder)
    assert load_dataset(loaded.name).digest == loaded.digest


def test_a_path_with_a_comma_can_be_written_in_quotes(folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "cats, dogs")
    loaded = load_dataset(f'image_folder:path="{moved}",size=16')
    assert load_dataset(loaded.name).digest == loaded.digest


def test_copies_of_a_picture_count_once_so_that_none_is_in_two_parts(folder: Path) -> None:
    for number in range(20, 30):
        (folder / "cats" / f"img{number}.png").write_bytes((folder / "cats" / "img1.png").read_bytes())
    loaded = load_dataset(spec(folder))
    pictures = [image.numpy().tobytes() for part in loaded.parts().values() for image in part.images]
    assert len(pictures) == len(set(pictures)) == 20
    assert loaded.note == "10 of 30 pictures are copies of another and were left out"


def test_the_centred_square_of_a_picture_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_images([tmp_path / "wide.png"], size=8, channels=3).min() == 255


def test_a_picture_of_the_right_size_is_not_resampled(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "exact.png")
    assert np.array_equal(read_images([tmp_path / "exact.png"], size=16, channels=3)[0], pixels.transpose(2, 0, 1))


def test_a_picture_is_turned_as_its_camera_held_it(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = read_images([tmp_path / "turned.png"], size=16, channels=1)[0, 0]
    assert (turned[:8].max(), turned[8:].min()) == (0, 255)


def test_16_bit_grey_keeps_its_upper_8_bits(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(pixels * 256 + 7).save(tmp_path / "scan.png")
    assert np.array_equal(read_images([tmp_path / "scan.png"], size=16, channels=1)[0, 0], pixels)


def test_palettes_grey_and_transparent_pictures_can_be_mixed(tmp_path: Path) -> None:
    for mode in ("P", "L", "LA", "RGBA", "1"):
        Image.new(mode, (16, 16)).save(tmp_path / f"{mode}.png")
    paths = sorted(tmp_path.iterdir())
    assert read_images(paths, size=16, channels=3).shape == (5, 3, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_the_channels_asked_for(folder: Path, channels: int) -> None:
    assert load_dataset(spec(folder, f",size=8,channels={channels}")).image_shape == (channels, 8, 8)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (",size=4", "parameter size=4 should be greater than or equal to 8"),
        (",size=big", "parameter size='big' should be a valid integer"),
        (",channels=2", r"parameter channels=2 should be 3 \(colour\) or 1 \(grey\)"),
        (",sise=16", "no parameter 'sise'.*did you mean 'size'"),
        (",size", "'size' is not key=value"),
    ],
)
def test_a_wrong_option_is_named(folder: Path, rest: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_dataset(spec(folder, rest))


@pytest.mark.parametrize("text", ["image_folder", "image_folder:size=32"])
def test_the_folder_must_be_named(text: str) -> None:
    with pytest.raises(UserError, match="does not name its folder; write image_folder:path=DIR,size=32"):
        load_dataset(text)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path / 'nowhere'} does not exist"):
        load_dataset(spec(tmp_path / "nowhere"))


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "lone.png")
    with pytest.raises(UserError, match="has no class folders"):
        load_dataset(spec(tmp_path))


def test_a_single_class_is_refused(folder: Path) -> None:
    (folder / "dogs").rename(folder.parent / "dogs")
    with pytest.raises(UserError, match="only the class folder 'cats'; it needs at least two"):
        load_dataset(spec(folder))


def test_an_empty_class_folder_is_named(folder: Path) -> None:
    (folder / "birds").mkdir()
    with pytest.raises(UserError, match=f"class folder {folder / 'birds'} holds no picture"):
        load_dataset(spec(folder))


def test_a_class_with_fewer_than_five_pictures_is_named(folder: Path) -> None:
    for number in range(1, 7):
        (folder / "cats" / f"img{number}.png").unlink()
    with pytest.raises(UserError, match=f"class folder {folder / 'cats'} holds 4 pictures; it needs at least 5"):
        load_dataset(spec(folder))


def test_a_class_with_fewer_than_five_different_pictures_is_named(folder: Path) -> None:
    for path in (folder / "cats").iterdir():
        Image.new("RGB", (16, 16)).save(path)
    with pytest.raises(UserError, match="cats holds 1 different pictures"):
        load_dataset(spec(folder))


@pytest.mark.parametrize("keep", [0, 30, 200])
def test_a_broken_picture_is_named(folder: Path, keep: int) -> None:
    path = folder / "dogs" / "img7.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"^picture {path} cannot be read \([^\n]*\); repair or remove it$"):
        load_dataset(spec(folder))


def test_a_file_that_is_no_picture_whatever_its_name_is_refused(folder: Path) -> None:
    (folder / "dogs" / "img7.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(UserError, match=r"img7\.png cannot be read"):
        load_dataset(spec(folder))
