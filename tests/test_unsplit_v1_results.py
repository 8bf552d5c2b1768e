"""The released results of unsplit-v1: what the published attack does, at every cut and on all three data sets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import ModuleType
from xml.etree import ElementTree

import pytest
from PIL import Image

from benchmark.cell import Plan
from benchmark.leaderboard import leaderboard
from benchmark.plugin_files import import_file
from benchmark.record import Record
from benchmark.released import read_released
from benchmark.report.depth import columns, to_svg
from benchmark.report.tables import write
from benchmark.rows import slots

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "results" / "unsplit-v1", ROOT / "docs" / "results" / "unsplit-v1.md"
# The first test image of each class, in the order of the test part.
PUBLISHED_TARGETS = {
    "mnist": {3, 2, 1, 18, 4, 8, 11, 0, 61, 7},
    "fashion-mnist": {19, 2, 1, 13, 6, 8, 4, 9, 18, 0},
}


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """The script that writes the page's tables."""
    return import_file(ROOT / "docs" / "results" / "tables.py", "")


@pytest.fixture(scope="module")
def made(page: ModuleType) -> Plan:
    planned: Plan = page.planned(read_released("unsplit-v1").values())
    return planned


@pytest.fixture(scope="module")
def records(made: Plan) -> list[Record]:
    released = read_released("unsplit-v1")
    return [released[cell.key()] for cell in made.cells]


@pytest.fixture(scope="module")
def shares(records: list[Record]) -> Callable[..., list[float]]:
    """Accuracies of inferred labels, one a cell."""

    def chosen(attack: str, params: str, layers: int, victim: str, batch: int) -> list[float]:
        tails = {("mnist_net", 1): "fc3", ("mnist_net", 2): "fc2", ("cifar_net", 1): "fc2", ("cifar_net", 2): "fc1"}
        return [
            record.scalars["label_accuracy"]
            for record in records
            if (record.axes.attack, record.axes.attack_params) == (attack, params)
            and record.axes.tail == tails[record.axes.model, layers]
            and record.axes.victim == victim
            and record.axes.targets.endswith(f"batches of {batch}")
        ]

    return chosen


def test_every_planned_cell_is_released_and_done(records: list[Record]) -> None:
    assert {record.status for record in records} == {"done"}


def test_the_committed_tables_are_those_of_the_committed_records(
    records: list[Record], made: Plan, tmp_path: Path
) -> None:
    for path in write(leaderboard(records, made), tmp_path):
        assert path.read_bytes() == (RESULTS / path.name).read_bytes(), path.name


def test_the_tables_of_the_page_are_those_of_the_committed_records(
    page: ModuleType, records: list[Record], made: Plan
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- table ") == text.count("<!-- end -->") > 10
    assert page.filled(text, page.tables(slots(records, made))) == text


def test_the_drawing_is_that_of_the_committed_records(records: list[Record], made: Plan) -> None:
    """Texts and points; how a text is placed depends on the version of matplotlib."""
    drawn = ElementTree.fromstring(to_svg(columns(slots(records, made))))
    committed = ElementTree.parse(RESULTS / "depth.svg").getroot()
    assert _texts(drawn) == _texts(committed)
    assert _points(drawn) == pytest.approx(_points(committed), abs=0.01)


def test_the_gallery_has_a_sheet_for_each_data_set_and_kind_of_victim() -> None:
    with Image.open(RESULTS / "gallery.png") as image:
        assert image.info == {}
        # Two sheets abreast, three lines of at least six rows each.
        assert image.width > 1800
        assert image.height > 3 * 6 * 60


def test_the_targets_are_those_of_the_published_experiments(records: list[Record]) -> None:
    for record in records:
        if "reconstruct" in record.axes.goals and record.axes.dataset in PUBLISHED_TARGETS:
            # Ids of the test part follow those of the 60 000 training images.
            places = {sample - 60_000 for sample in record.targets["ids"]}
            assert places == PUBLISHED_TARGETS[record.axes.dataset]


def test_every_record_on_the_copy_of_cifar10_says_that_it_was_encoded_again(records: list[Record]) -> None:
    notes = {record.targets["note"] for record in records if record.axes.dataset == "cifar10"}
    assert len(notes) == 1
    assert "a re-encoding" in notes.pop()


def test_the_published_label_inference_is_perfect_where_it_was_published_and_nowhere_else(
    shares: Callable[..., list[float]],
) -> None:
    published = ("label_matching", "")
    assert set(shares(*published, layers=1, victim="untrained", batch=1)) == {1.0}
    assert max(shares(*published, layers=1, victim="trained", batch=1)) < 0.6
    assert max(shares(*published, layers=1, victim="untrained", batch=64)) < 0.3
    assert max(shares(*published, layers=2, victim="untrained", batch=1)) < 0.3
    assert max(shares("label_matching", "observes=cut_gradient", layers=1, victim="untrained", batch=1)) < 0.3


def test_the_closed_form_needs_no_clone(shares: Callable[..., list[float]]) -> None:
    for layers in (1, 2):
        for victim in ("untrained", "trained"):
            assert set(shares("bias_sign", "", layers=layers, victim=victim, batch=1)) == {1.0}


@pytest.fixture(scope="module")
def behind_pooling(records: list[Record]) -> Callable[[str, str], float]:
    """Mean aligned SSIM of the published attack behind MNIST's first pooling, over attack seeds."""

    def mean(victim: str, params: str) -> float:
        found = [
            fmean(record.per_image["ssim_aligned"])
            for record in records
            if (record.axes.dataset, record.axes.cut, record.axes.attack) == ("mnist", "pool1", "unsplit")
            and (record.axes.victim, record.axes.attack_params) == (victim, params)
        ]
        assert len(found) == 2
        return fmean(found)

    return mean


@pytest.mark.parametrize("victim", ["trained", "untrained"])
def test_ten_times_the_steps_show_no_more_behind_the_first_pooling(
    behind_pooling: Callable[[str, str], float], victim: str
) -> None:
    assert behind_pooling(victim, "") < behind_pooling(victim, "rounds=100") + 0.01


@pytest.mark.parametrize("victim", ["trained", "untrained"])
def test_ending_at_rest_loses_nothing_behind_the_first_pooling(
    behind_pooling: Callable[[str, str], float], victim: str
) -> None:
    assert behind_pooling(victim, "ends=at_rest") == pytest.approx(behind_pooling(victim, ""), abs=0.002)


@pytest.mark.parametrize("cut", ["conv2", "pool2", "fc1"])
@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_the_whole_published_budget_shows_nothing_behind_the_second_convolution(
    records: list[Record], dataset: str, cut: str
) -> None:
    place = [record for record in records if (record.axes.dataset, record.axes.cut) == (dataset, cut)]
    for victim in ("trained", "untrained"):
        for params in ("ends=at_rest", "preset=paper,ends=at_rest"):
            found = [r for r in place if (r.axes.victim, r.axes.attack_params) == (victim, params)]
            assert found
            control = max(fmean(scores["ssim_aligned"]) for scores in _guesses(found[0]))
            assert fmean(fmean(record.per_image["ssim_aligned"]) for record in found) < control + 0.05


def test_every_cut_met_both_presets_and_both_joint_clones(records: list[Record]) -> None:
    attacked = {_place(record) for record in records if record.axes.attack == "inverse_decoder"}
    assert len(attacked) == 30
    tried = [r for r in records if (r.axes.attack, r.axes.threat_model) == ("unsplit", "architecture")]
    apart = [record for record in tried if "clone=" not in record.axes.attack_params]
    joint = [record for record in tried if "clone=joint" in record.axes.attack_params]
    for these, mark in ((apart, "preset=paper"), (joint, "select=consensus")):
        for marked in (False, True):
            assert {_place(record) for record in these if (mark in record.axes.attack_params) == marked} == attacked


def test_on_the_28x28_sets_every_attack_has_two_seeds(records: list[Record]) -> None:
    seeds: dict[tuple[object, ...], set[int]] = {}
    for record in records:
        axes = record.axes
        if axes.dataset != "cifar10":
            what = (*_place(record), axes.tail, axes.targets, axes.attack, axes.attack_params, axes.threat_model)
            seeds.setdefault(what, set()).add(axes.attack_seed)
    assert all({0, 1} <= found for found in seeds.values())


def test_a_decoder_with_auxiliary_images_beats_the_published_attack_at_every_cut(records: list[Record]) -> None:
    def ssim(attack: str) -> dict[tuple[str, str, str], float]:
        found = [record for record in records if record.axes.attack == attack and "reconstruct" in record.axes.goals]
        return {
            place: max(fmean(r.per_image["ssim_aligned"]) for r in found if _place(r) == place)
            for place in {_place(record) for record in found}
        }

    decoded, published = ssim("inverse_decoder"), ssim("unsplit")
    assert published.keys() == decoded.keys()
    assert all(decoded[place] > published[place] for place in published)


def _guesses(record: Record) -> list[dict[str, list[float]]]:
    return [scores for name, scores in record.controls.items() if name != "random_clone"]


def _place(record: Record) -> tuple[str, str, str]:
    return record.axes.dataset, record.axes.victim, record.axes.cut


def _texts(svg: ElementTree.Element) -> list[str]:
    return [element.text for element in svg.iter() if element.tag.endswith("text") and element.text]


def _points(svg: ElementTree.Element) -> list[float]:
    marks = [element for element in svg.iter() if element.tag.endswith("use")]
    return [float(re.sub(r"[a-z]+$", "", mark.get(axis, "nan"))) for mark in marks for axis in ("x", "y")]
