"""The released results of smoke-v1 show what is known, and the committed tables are made from them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest

from benchmark.cell import Plan
from benchmark.leaderboard import Leaderboard, leaderboard
from benchmark.plan import plan
from benchmark.record import Record
from benchmark.released import read_released
from benchmark.report.tables import write
from benchmark.suite import load_suite

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(load_suite("smoke-v1"))


@pytest.fixture(scope="module")
def records(made: Plan) -> list[Record]:
    released = read_released("smoke-v1")
    return [released[cell.key()] for cell in made.cells]


@pytest.fixture(scope="module")
def board(records: list[Record], made: Plan) -> Leaderboard:
    return leaderboard(records, made)


def leakage(board: Leaderboard, defense: str, params: str = "", **where: str) -> float:
    rows = board.rows
    place = {"goal": "inputs", "topology": "vanilla", "cut": "pool1", "threat_model": "architecture", **where}
    chosen = (rows["defense"] == defense) & (rows["params"].fillna("") == params)
    for column, value in place.items():
        chosen &= rows[column] == value
    (value,) = rows.loc[chosen, "leakage"]
    return float(value)


def test_every_planned_cell_is_released_and_done(records: list[Record]) -> None:
    assert {record.status for record in records} == {"done"}


def test_the_committed_tables_are_those_of_the_committed_records(board: Leaderboard, tmp_path: Path) -> None:
    for path in write(board, tmp_path):
        assert path.read_bytes() == (ROOT / "results" / "smoke-v1" / path.name).read_bytes(), path.name


def test_no_defense_leaks_and_more_than_the_strongest_noise(board: Leaderboard) -> None:
    undefended = leakage(board, "none")
    assert undefended >= 0.4
    assert undefended > leakage(board, "gaussian_noise", "relative=2.0")


def test_more_noise_leaks_less(board: Leaderboard) -> None:
    for threat_model in ("architecture", "architecture+auxiliary+query"):
        weak = leakage(board, "gaussian_noise", threat_model=threat_model)
        assert weak > leakage(board, "gaussian_noise", "relative=2.0", threat_model=threat_model)


def test_a_deeper_split_is_no_safer_against_a_decoder_than_a_little_noise(board: Leaderboard) -> None:
    assert (
        leakage(board, "deeper_split", "to=pool2", cut="pool1->pool2", threat_model="architecture+auxiliary+query")
        > 0.7
    )


def test_dp_sgd_hides_weights_and_not_activations(board: Leaderboard) -> None:
    rows = board.rows[board.rows["defense"] == "dp_sgd"]
    assert (rows["epsilon_activations"].astype(str) == "inf").all()
    assert leakage(board, "dp_sgd", "noise_multiplier=0.5") > 0.5


def test_cut_gradients_tell_labels_where_nothing_is_defended(records: list[Record]) -> None:
    accuracies = [
        record.scalars["label_accuracy"]
        for record in records
        if (record.axes.attack, record.axes.attack_params, record.axes.defense) == ("gradient_similarity", "", "none")
    ]
    assert len(accuracies) == 2
    assert min(accuracies) >= 0.95


def test_weight_gradients_make_rows_of_their_own(board: Leaderboard) -> None:
    attacks = board.attacks
    reading = attacks[attacks["attack"].isin(["bias_sign"]) | (attacks["attack_params"] == "observes=weight_gradient")]
    assert set(reading["threat_model"]) <= {"weight gradients"}
    labels: pd.DataFrame = board.rows[board.rows["goal"] == "labels"]
    others = labels[labels["threat_model"] != "weight gradients"]
    assert not others["worst_attack"].str.contains("bias_sign").any()


def test_the_baseline_is_of_the_released_suite(made: Plan) -> None:
    baseline = json.loads((ROOT / "results" / "baselines" / "smoke-v1.json").read_text())
    assert baseline["suite_digest"] == made.suite_digest
    assert len(baseline["cells"]) == len(made.cells)


def test_the_joint_clone_recovers_real_mnist_as_the_readme_says() -> None:
    released = list(read_released("mnist-joint-v1").values())
    means = [fmean(r.per_image["ssim_aligned"]) for r in released if r.axes.attack == "unsplit"]
    assert len(means) == 6
    assert fmean(means) >= 0.65
    readme = (ROOT / "README.md").read_text()
    assert all(f"{mean:.3f}" in readme for mean in [*means, fmean(means)])


def test_the_tables_of_real_mnist_are_made_from_its_records(tmp_path: Path) -> None:
    for path in write(leaderboard(list(read_released("mnist-joint-v1").values())), tmp_path):
        assert path.read_bytes() == (ROOT / "results" / "mnist-joint-v1" / path.name).read_bytes(), path.name
