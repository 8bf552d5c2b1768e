"""The released results of smoke-v2: every stance and both phases, against every defense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.cell import Plan
from benchmark.leaderboard import Leaderboard, leaderboard
from benchmark.plan import plan
from benchmark.record import Record
from benchmark.released import read_released
from benchmark.report.tables import write
from benchmark.suite import load_suite

ROOT = Path(__file__).parent.parent
STANCES = {"oblivious", "aware", "adaptive"}


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(load_suite("smoke-v2"))


@pytest.fixture(scope="module")
def records(made: Plan) -> list[Record]:
    released = read_released("smoke-v2")
    return [released[cell.key()] for cell in made.cells]


@pytest.fixture(scope="module")
def board(records: list[Record], made: Plan) -> Leaderboard:
    return leaderboard(records, made)


def score(board: Leaderboard, defense: str, column: str = "leakage", params: str = "", **where: object) -> float:
    attacks = board.attacks
    chosen = (attacks["defense"] == defense) & (attacks["params"].fillna("") == params)
    for name, value in where.items():
        chosen &= attacks[name] == value
    (value,) = attacks.loc[chosen, column]
    return float(value)


def test_every_planned_cell_is_released_and_done(records: list[Record]) -> None:
    assert {record.status for record in records} == {"done"}


def test_the_committed_tables_are_those_of_the_committed_records(board: Leaderboard, tmp_path: Path) -> None:
    for path in write(board, tmp_path):
        assert path.read_bytes() == (ROOT / "results" / "smoke-v2" / path.name).read_bytes(), path.name


def test_the_baseline_is_of_the_released_suite(made: Plan) -> None:
    baseline = json.loads((ROOT / "results" / "baselines" / "smoke-v2.json").read_text())
    assert baseline["suite_digest"] == made.suite_digest
    assert len(baseline["cells"]) == len(made.cells)


def test_the_tables_of_the_readme_are_those_of_the_released_leaderboard() -> None:
    shown = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    released = (ROOT / "results" / "smoke-v2" / "leaderboard.md").read_text().splitlines()
    assert shown
    assert not set(shown) - set(released)


def test_every_defense_met_every_stance_and_inputs_met_both_phases(records: list[Record]) -> None:
    for goal, phases in (("reconstruct", {"training", "inference"}), ("infer_labels", {"training"})):
        met: dict[str, list[Record]] = {}
        for record in records:
            if goal in record.axes.goals and record.axes.defense != "none":
                met.setdefault(f"{record.axes.defense} {record.axes.params}", []).append(record)
        assert met
        for defense, of_defense in met.items():
            assert {record.axes.stance for record in of_defense} == STANCES, defense
            assert {record.axes.phase for record in of_defense} == phases, defense


def test_no_attack_of_the_suite_but_one_that_cannot_fails_its_planted_clients(records: list[Record]) -> None:
    failing = {record.axes.attack for record in records if "planted_client_failed" in record.flags}
    assert failing == {"label_matching"}


def test_ten_queries_give_away_what_noise_hides_in_one(board: Leaderboard) -> None:
    strong = {"params": "relative=2.0", "attack": "unsplit", "phase": "inference"}
    once = score(board, "gaussian_noise", stance="oblivious", **strong)
    assert score(board, "gaussian_noise", stance="adaptive", views=10, **strong) > once + 0.1


def test_flipped_labels_say_no_more_than_features_do(records: list[Record]) -> None:
    flipped = [r for r in records if r.axes.defense == "label_randomised_response" and "infer_labels" in r.axes.goals]
    assert flipped
    assert all(record.scalars["label_accuracy"] < 0.9 for record in flipped)
