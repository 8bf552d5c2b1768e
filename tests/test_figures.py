"""The figures of a suite, from a real run of a little one with trained and untrained victims."""

import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmark.cli import main
from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.record import Record
from benchmark.report.depth import Column, columns, to_svg
from benchmark.report.gallery import sheets, to_png
from benchmark.report.pictures import Reconstructed, reconstructed
from benchmark.rows import slots
from benchmark.store import Store

SUITE = """\
name: figured
dataset: mnist-5k
model: mnist_net
seeds: [0]
training: {epochs: 1, batch_size: 256}
group_size: 4
blocks:
  - name: trained
    cuts: [pool2, conv1]
    defenses: [none, "gaussian_noise:relative=0.5"]
    attacks: &attacks
      - attack: "unsplit:clone=joint,rounds=1,input_steps=4,model_steps=4,checkpoints=1"
        seeds: [0, 1]
        defenses: none
      - "known_client:steps=20"
  - name: untrained
    training: {epochs: 0}
    cuts: [pool2, conv1]
    defenses: [none]
    attacks: *attacks
"""
CODE = "unsplit:clone=joint,rounds=1,input_steps=4,model_steps=4,checkpoints=1"


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    (folder / "figured.yaml").write_text(SUITE)
    run = ("run", str(folder / "figured.yaml"), "--executor", "inline", "--output", str(folder / "out"))
    assert called(*run) == 0
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    with Store(folder / "out" / "store.sqlite") as store:
        return store.records("figured")


@pytest.fixture(scope="module")
def drawn(records: list[Record]) -> list[Column]:
    return columns(slots(records))


@pytest.fixture(scope="module")
def rows(folder: Path, records: list[Record], digits: Dataset) -> list[Reconstructed]:
    shown = [record for record in records if record.axes.defense == "none"]
    return reconstructed(shown, {digits.name: digits}, folder / "out" / "reconstructions")


def test_each_kind_of_victim_has_a_column_with_its_cuts_by_depth(drawn: list[Column]) -> None:
    assert [column.title for column in drawn] == ["mnist-5k, trained", "mnist-5k, untrained"]
    assert [list(column.cuts.items()) for column in drawn] == [[("conv1", 1), ("pool2", 2)]] * 2


def test_defended_clients_are_left_out(records: list[Record], drawn: list[Column]) -> None:
    plain = [record for record in records if record.axes.defense == "none"]
    assert len(plain) < len(records)
    assert columns(slots(plain)) == drawn


def test_the_means_are_those_of_the_records(records: list[Record], drawn: list[Column]) -> None:
    cells = [r for r in records if (r.axes.attack, r.axes.victim, r.axes.cut) == ("unsplit", "trained", "conv1")]
    assert len(cells) == 2
    point = drawn[0].stolen["unsplit"][0]
    shares = [record.scalars["steal_accuracy"] for record in cells]
    assert point.value == pytest.approx(np.mean(shares))
    assert point.low < min(shares) <= max(shares) < point.high
    assert drawn[0].victim["conv1"] == cells[0].utility["accuracy"]


def test_what_only_reconstructs_steals_nothing(drawn: list[Column]) -> None:
    assert set(drawn[0].leakage) == {"unsplit", "known_client"}
    assert set(drawn[0].stolen) == {"unsplit"}


def test_a_cut_that_lacks_a_seed_has_no_point(records: list[Record]) -> None:
    lacking = [r for r in records if (r.axes.attack, r.axes.attack_seed, r.axes.cut) == ("unsplit", 1, "pool2")]
    failed = [replace(record, status="failed") if record in lacking else record for record in records]
    trained = columns(slots(failed))[0]
    assert [point.cut for point in trained.leakage["unsplit"]] == ["conv1"]
    assert [point.cut for point in trained.leakage["known_client"]] == ["conv1", "pool2"]


def test_an_attack_that_was_still_moving_is_a_lower_bound(records: list[Record]) -> None:
    for settled in (True, False):
        told = [replace(record, convergence=record.convergence | {"converged": settled}) for record in records]
        points = columns(slots(told))[0].leakage["known_client"]
        assert {point.at_rest for point in points} == {settled}


def test_the_same_records_give_the_same_drawing_whatever_their_order(
    records: list[Record], drawn: list[Column]
) -> None:
    svg = to_svg(drawn)
    assert svg == to_svg(columns(slots(records[::-1])))
    assert b"date" not in svg.lower()


def test_a_copy_that_is_not_the_original_is_told_in_the_drawing(records: list[Record]) -> None:
    told = [replace(record, targets=record.targets | {"note": "a re-encoding"}) for record in records]
    texts = [text.text for text in ElementTree.fromstring(to_svg(columns(slots(told)))).iter() if text.text]
    assert "† a re-encoding" in texts
    assert "mnist-5k, trained †" in texts


def test_without_anything_done_nothing_is_drawn(records: list[Record]) -> None:
    failed = [replace(record, status="failed") for record in records]
    with pytest.raises(UserError, match="nothing is to be drawn"):
        to_svg(columns(slots(failed)))


def test_a_sheet_goes_from_shallow_to_deep_and_shows_the_first_seed(rows: list[Reconstructed]) -> None:
    found = sheets(rows[::-1])
    assert list(found) == ["mnist-5k, trained victim", "mnist-5k, untrained victim"]
    for cells in found.values():
        assert [(cell.record.axes.cut, cell.record.axes.attack) for cell in cells] == [
            ("conv1", "known_client"),
            ("conv1", "unsplit"),
            ("pool2", "known_client"),
            ("pool2", "unsplit"),
        ]
        assert {cell.record.axes.attack_seed for cell in cells} == {0}


def test_the_gallery_is_the_same_every_time_and_holds_no_metadata(rows: list[Reconstructed]) -> None:
    png = to_png(rows)
    assert png == to_png(rows[::-1])
    assert Image.open(io.BytesIO(png)).info == {}


def test_both_figures_come_from_the_command_line(folder: Path) -> None:
    suite, output = str(folder / "figured.yaml"), str(folder / "out")
    assert called("depth", suite, "--output", output, "-o", str(folder / "depth.svg")) == 0
    assert called("gallery", suite, "--output", output, "--attack", CODE, "-o", str(folder / "gallery.png")) == 0
    assert (folder / "depth.svg").read_bytes().startswith(b"<?xml")
    assert called("gallery", suite, "--output", output, "-o", str(folder / "all.png")) == 0
    with Image.open(folder / "gallery.png") as one, Image.open(folder / "all.png") as every:
        assert every.height > one.height


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("depth", "-o", "depth.png"), "give a name that ends in .svg"),
        (("gallery", "-o", "gallery.svg"), "give a name that ends in .png"),
        (("gallery", "-o", "gallery.png", "--attack", "known_client:steps=21"), "no reconstructions of known_client"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(
    folder: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    assert called(command, str(folder / "figured.yaml"), "--output", str(folder / "out"), *rest) == 2
    assert words in capsys.readouterr().err
