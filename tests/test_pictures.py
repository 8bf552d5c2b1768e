"""Pictures of what was reconstructed, from a real run of a little suite."""

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.cli import main
from benchmark.context import RunContext
from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.metrics.reconstruction import score_images
from benchmark.record import Record
from benchmark.report.pictures import Reconstructed, label, reconstructed, to_png
from benchmark.runner import images_file
from benchmark.store import Store
from benchmark.tensors import load_tensors, save_tensors

SUITE = """\
name: pictured
dataset: mnist-5k
model: mnist_net
seeds: [0]
training: {epochs: 1, batch_size: 256}
blocks:
  - name: inputs
    cuts: [pool1, pool2]
    defenses: [none]
    attacks:
      - "unsplit:clone=joint,rounds=1,input_steps=4,model_steps=4,checkpoints=1"
      - "known_client:steps=20"
  - name: labels
    topology: u_shaped
    tail: fc3
    cuts: [pool1]
    defenses: [none]
    attacks: [{attack: bias_sign, phase: training}]
"""
OUT = "unsplit-bench-out"


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the little suite has been run once."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "pictured.yaml").write_text(SUITE)
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert called("run", "pictured.yaml", "--executor", "inline") == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    with Store(folder / OUT / "store.sqlite") as store:
        return store.records("pictured")


@pytest.fixture(scope="module")
def rows(folder: Path, records: list[Record], digits: Dataset) -> list[Reconstructed]:
    return reconstructed(records, {digits.name: digits}, folder / OUT / "reconstructions")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def test_a_run_keeps_a_file_for_each_cell_that_reconstructs(folder: Path, records: list[Record]) -> None:
    kept = {path.stem for path in (folder / OUT / "reconstructions").iterdir()}
    assert kept == {record.key for record in records if "reconstruct" in record.axes.goals}
    assert len(kept) == 4


def test_what_is_kept_is_what_was_scored(rows: list[Reconstructed], folder: Path, digits: Dataset) -> None:
    for row in rows:
        tensors, _ = load_tensors(images_file(folder / OUT / "reconstructions", row.record.key))
        at = [digits.test.ids.tolist().index(sample) for sample in row.record.targets["ids"]]
        again = score_images(tensors["reconstructions"], digits.test.images[at])
        assert again["ssim_aligned"] == pytest.approx(row.record.per_image["ssim_aligned"], abs=1e-9)


def test_where_images_are_kept_changes_no_key() -> None:
    one = RunContext("s", "0", "victims")
    assert one.images is None
    assert RunContext.from_json(replace(one, images="there").to_json()).images == "there"


def test_the_same_rows_give_the_same_bytes(rows: list[Reconstructed]) -> None:
    png = to_png(rows)
    assert png == to_png(rows)
    assert Image.open(io.BytesIO(png)).info == {}


def test_the_first_row_shows_the_private_images(rows: list[Reconstructed]) -> None:
    image = pixels(to_png(rows))
    # Twice the digit's size, from where the first column starts.
    first = image[12 : 12 + 56 : 2, 324 : 324 + 56 : 2, 0]
    assert np.array_equal(first, np.rint(255 * rows[0].truth[0, 0]).astype(int))


def test_images_are_shown_class_by_class_each_with_its_reconstruction(
    rows: list[Reconstructed], folder: Path, digits: Dataset
) -> None:
    row = rows[0]
    at = {sample: place for place, sample in enumerate(row.record.targets["ids"])}
    part = digits.test
    ids = part.ids[torch.isin(part.ids, torch.tensor(list(at)))].tolist()
    by_class = sorted(ids, key=lambda sample: int(part.labels[part.ids.tolist().index(sample)]))
    images = part.images[[part.ids.tolist().index(sample) for sample in by_class]]
    assert row.record.targets["ids"] != by_class
    assert np.array_equal(row.truth, images.double().numpy())
    kept, _ = load_tensors(images_file(folder / OUT / "reconstructions", row.record.key))
    assert np.array_equal(row.images, kept["reconstructions"][[at[i] for i in by_class]].double().numpy())


def test_a_perfect_reconstruction_is_drawn_as_the_private_image(rows: list[Reconstructed]) -> None:
    truth = rows[0].truth
    image = pixels(to_png([replace(rows[0], images=truth)]))
    columns = image[:, 324 : 324 + 56]
    shown, raw, aligned = columns[12:68], columns[84:140], columns[144:200]
    assert np.array_equal(shown, raw)
    assert np.abs(shown - aligned).max() <= 1


def test_only_aligning_gives_brightness_back(rows: list[Reconstructed]) -> None:
    truth = rows[0].truth
    image = pixels(to_png([replace(rows[0], images=5 - truth)]))
    columns = image[:, 324 : 324 + 56]
    assert (columns[84:140] == 255).all()
    assert np.abs(columns[12:68] - columns[144:200]).max() <= 1


def test_private_images_are_drawn_anew_only_where_they_change(rows: list[Reconstructed]) -> None:
    one, two = (len(pixels(to_png(rows[:n]))) for n in (1, 2))
    other = replace(rows[1], record=replace(rows[1].record, targets={**rows[1].record.targets, "digest": "other"}))
    assert two - one == 2 * 60 + 12
    assert len(pixels(to_png([rows[0], other]))) - one == 3 * 60 + 12


def test_more_targets_than_fit_are_left_out(rows: list[Reconstructed]) -> None:
    many = replace(rows[0], truth=np.tile(rows[0].truth, (3, 1, 1, 1)), images=np.tile(rows[0].images, (3, 1, 1, 1)))
    assert pixels(to_png([many])).shape[1] == 324 + 20 * 60 + 12


def test_colour_is_drawn_in_colour(rows: list[Reconstructed]) -> None:
    red = np.zeros((1, 3, 32, 32))
    red[:, 0] = 1
    assert (pixels(to_png([replace(rows[0], truth=red, images=red)]))[40, 324 + 28] == (255, 0, 0)).all()


def test_a_label_says_which_cell_and_how_much_it_leaked(rows: list[Reconstructed]) -> None:
    record = next(row.record for row in rows if row.record.axes.attack == "unsplit")
    assert label(record).split("\n") == [
        "no defense",
        f"{record.axes.cut}, victim seed 0",
        "unsplit, attack seed 0",
        "rounds=1, input_steps=4,",
        "model_steps=4, clone=joint, …",
        f"mean aligned SSIM {np.mean(record.per_image['ssim_aligned']):.2f}",
    ]


def test_another_copy_of_the_data_is_refused(records: list[Record], folder: Path, digits: Dataset) -> None:
    other = replace(digits, test=replace(digits.test, images=1 - digits.test.images))
    with pytest.raises(UserError, match="do not hold the images that were attacked"):
        reconstructed(records, {digits.name: other}, folder / OUT / "reconstructions")


def test_a_torn_file_is_told(records: list[Record], folder: Path, digits: Dataset, tmp_path: Path) -> None:
    kept = Path(shutil.copytree(folder / OUT / "reconstructions", tmp_path / "kept"))
    file = next(kept.iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{file.name} does not hold the reconstructions"):
        reconstructed(records, {digits.name: digits}, kept)


def test_reconstructions_of_other_targets_are_told(rows: list[Reconstructed], digits: Dataset, tmp_path: Path) -> None:
    record = rows[0].record
    save_tensors(images_file(tmp_path, record.key), {"reconstructions": digits.test.images[:3]}, {})
    with pytest.raises(UserError, match="does not hold the reconstructions"):
        reconstructed([record], {digits.name: digits}, tmp_path)


def test_the_command_draws_what_is_asked_for(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heights = []
    for chosen in ([], ["--attack", "known_client"], ["--attack", "known_client", "--cut", "pool2"]):
        assert called("pictures", "pictured.yaml", "-o", str(tmp_path / "p.png"), *chosen) == 0
        heights.append(len(pixels((tmp_path / "p.png").read_bytes())))
    assert heights == [24 + 60 + n * (2 * 60 + 12) for n in (4, 2, 1)]
    assert "p.png: 4 cells" in capsys.readouterr().err


def test_cells_without_images_are_counted(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(there / OUT, tmp_path / "out")
    next((tmp_path / "out" / "reconstructions").iterdir()).unlink()
    png = str(tmp_path / "p.png")
    assert called("pictures", "pictured.yaml", "-o", png, "--output", str(tmp_path / "out")) == 0
    assert "3 cells; of 1 more no images are kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "p.jpg"], "give a name that ends in .png"),
        (["-o", "p.png", "--attack", "known_clint"], "did you mean 'known_client'?"),
        (["-o", "p.png", "--cut", "fc1"], "choose one of: pool1, pool2"),
        (["-o", "p.png", "--output", "nowhere"], "in this folder: unsplit-bench run pictured.yaml --fresh"),
        (["-o", "p.png", "--output", "bare"], "in another folder, with --output: unsplit-bench run pictured.yaml"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    arguments: list[str], words: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "bare").mkdir(exist_ok=True)
    shutil.copyfile(there / OUT / "store.sqlite", there / "bare" / "store.sqlite")
    assert called("pictures", "pictured.yaml", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (there / "p.png").exists()
