"""Defenses that hide nothing: the leaderboard sees through each, by score or by flag."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from benchmark.commands.session import context_of, planned
from benchmark.leaderboard import leaderboard
from benchmark.options import Options
from benchmark.run import RunOutcome, records_of, run_plan
from benchmark.store import Store
from benchmark.verify import verify

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "decoys"
SUITE = Path(__file__).with_name("decoys.yaml")
FILES = sorted(FOLDER.glob("*.py"))

SMASHED = ("architecture", "architecture+auxiliary+query")
# Worst leakage must stay this close to that of an undefended client.
WITHIN = 0.1

# The suite of the quick tests: the decoder alone, and victims of two epochs.
QUICK = """\
name: quick-decoys
dataset: mnist-5k
model: mnist_net
seeds: [0]
training: {epochs: 2}
blocks:
  - cuts: [pool1]
    defenses: [none]
    attacks: ["inverse_decoder:images=500,epochs=2"]
"""


@dataclass(frozen=True)
class Told:
    """What a run's tables say."""

    rows: pd.DataFrame
    attacks: pd.DataFrame
    outcome: RunOutcome

    def row(self, defense: str, threat_model: str, goal: str = "inputs") -> pd.Series:
        """The one row."""
        rows = self.rows
        chosen = (rows["defense"] == defense) & (rows["threat_model"] == threat_model) & (rows["goal"] == goal)
        (position,) = chosen.to_numpy().nonzero()[0]
        return rows.iloc[position]

    def leakage(self, defense: str, threat_model: str, goal: str = "inputs") -> float:
        """Its worst leakage; NaN where it shows a gap."""
        return float(self.row(defense, threat_model, goal)["leakage"])

    def flags(self, defense: str, threat_model: str = "architecture", goal: str = "inputs") -> set[str]:
        """Its flags."""
        return set(self.row(defense, threat_model, goal)["flags"].split(", "))

    def scores(self, column: str, attack: str, stance: str, phase: str) -> pd.Series:
        """What one attack reached, by defense."""
        told = self.attacks
        chosen = (told["attack"] == attack) & (told["stance"] == stance) & (told["phase"] == phase)
        return told[chosen].set_index("defense")[column].dropna()


def run(suite: Path, folder: Path, defenses: Sequence[str] = ()) -> Told:
    """Run a suite in child processes and make its tables."""
    options = Options(str(suite), defenses=defenses, output=folder, device="cpu", workers=1)
    _, made = planned(options)
    context = replace(context_of(options, made, folder / "victims"), images=None)
    with Store(folder / "store.sqlite") as store:
        outcome = run_plan(made, store, context, workers=1, released={})
        board = leaderboard(records_of(made, store, {}), made)
    return Told(board.rows, board.attacks, outcome)


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The tables of the suite of decoys."""
    return run(SUITE, tmp_path_factory.mktemp("decoys"))


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The tables of three decoys that a user gives by path, in a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "quick.yaml").write_text(QUICK)
    shutil.copytree(FOLDER, folder / "decoys", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run(
            Path("quick.yaml"),
            Path("out"),
            ["./decoys/scaled.py:Scaled", "./decoys/inverted.py:Inverted", "./decoys/frozen_noise.py:FrozenNoise"],
        )


def class_of(file: Path) -> str:
    """The one class a decoy's file defines."""
    (name,) = re.findall(r"^class (\w+)\(Defense\)", file.read_text(), re.MULTILINE)
    return str(name)


def name_of(file: Path) -> str:
    """Its name in the tables, as the class states it."""
    (name,) = re.findall(r'name: ClassVar\[str\] = "(\w+)"', file.read_text())
    return str(name)


# quick


@pytest.mark.parametrize("decoy", ["scaled", "inverted", "frozen_noise"])
def test_a_decoder_that_queries_the_client_sees_through(decoy: str, quick: Told) -> None:
    undefended, leaked = (quick.leakage(name, SMASHED[1]) for name in ("none", decoy))
    assert undefended > 0.5
    assert leaked > undefended - WITHIN


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_decoy_is_named_as_its_file(file: Path) -> None:
    assert name_of(file) == file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_suite_runs_every_decoy(file: Path) -> None:
    assert f'- "../examples/decoys/{file.name}:{class_of(file)}"' in SUITE.read_text()


def test_the_readme_has_a_row_for_every_decoy_and_for_no_other() -> None:
    table = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.py\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == [(file.stem, file.stem) for file in FILES]


# slow


HIDES_NOTHING = [
    "scaled",
    "shifted",
    "permuted",
    "sign_flipped",
    "inverted",
    "frozen_noise",
    "training_noise",
    "inference_noise",
    "sixteen_bits",
    "loose_clip",
    "masked_gradient",
]


@pytest.mark.slow
@pytest.mark.parametrize("decoy", HIDES_NOTHING)
def test_what_hides_nothing_leaks_as_much_as_no_defense(decoy: str, told: Told) -> None:
    assert told.leakage(decoy, SMASHED[1]) > told.leakage("none", SMASHED[1]) - WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("decoy", HIDES_NOTHING)
def test_a_clone_of_the_client_sees_through(decoy: str, told: Told) -> None:
    assert told.leakage(decoy, SMASHED[0]) > told.leakage("none", SMASHED[0]) - WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("threat_model", SMASHED)
def test_the_attacks_succeed_where_nothing_is_defended(threat_model: str, told: Told) -> None:
    assert told.leakage("none", threat_model) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("decoy", ["scaled", "shifted", "sign_flipped", "inverted", "frozen_noise"])
def test_an_attack_that_ignores_the_defense_is_fooled(decoy: str, told: Told) -> None:
    naive = told.scores("leakage", "unsplit", "oblivious", "inference")
    assert naive[decoy] < naive["none"] - WITHIN


@pytest.mark.slow
def test_noise_in_training_alone_fools_who_looks_at_training_alone(told: Told) -> None:
    assert told.leakage("training_noise", "architecture") > told.leakage("none", "architecture") - WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("threat_model", SMASHED)
@pytest.mark.parametrize(
    ("decoy", "flag"),
    [
        ("zeros", "utility_at_majority"),
        ("zeros", "constant_or_nan"),
        ("not_a_number", "incomplete"),
        ("memoriser", "memorises_test"),
        ("loose_clip", "claim_refuted"),
        ("repeated_noise", "reused_noise"),
        ("masked_gradient", "gradient_masked"),
        ("sleeper", "inactive"),
    ],
)
def test_what_no_score_shows_is_flagged(decoy: str, flag: str, threat_model: str, told: Told) -> None:
    assert flag in told.flags(decoy, threat_model)


@pytest.mark.slow
@pytest.mark.parametrize("threat_model", SMASHED)
@pytest.mark.parametrize("decoy", ["zeros", "not_a_number", "memoriser", "loose_clip", "repeated_noise"])
def test_a_fatal_flag_leaves_the_decoy_unranked(decoy: str, threat_model: str, told: Told) -> None:
    assert pd.isna(told.row(decoy, threat_model)["rank"])


@pytest.mark.slow
def test_not_a_number_shows_a_gap_and_no_score(told: Told) -> None:
    assert pd.isna(told.leakage("not_a_number", "architecture"))


@pytest.mark.slow
def test_only_not_a_number_could_not_be_measured(told: Told) -> None:
    lacking = told.rows[told.rows["n_done"] < told.rows["n_planned"]]
    assert set(lacking["defense"]) == {"not_a_number"}


@pytest.mark.slow
def test_an_undefended_row_and_one_with_an_honest_decoy_carry_no_fatal_accusation(told: Told) -> None:
    accusations = {"constant_or_nan", "memorises_test", "claim_refuted", "reused_noise", "utility_at_majority"}
    assert not told.flags("none") & accusations
    assert not told.flags("permuted") & accusations


@pytest.mark.slow
def test_the_leakage_of_a_sleeper_is_to_the_last_bit_that_of_no_defense(told: Told) -> None:
    naive = told.scores("leakage", "unsplit", "oblivious", "inference")
    assert naive["sleeper"] == naive["none"]


@pytest.mark.slow
@pytest.mark.parametrize("decoy", ["tiny_gradients", "shifted_gradients", "first_epoch_noise"])
def test_what_hides_no_label_gives_as_many_away_as_no_defense(decoy: str, told: Told) -> None:
    table = ("architecture+k labels", "labels")
    assert told.leakage(decoy, *table) > told.leakage("none", *table) - WITHIN


@pytest.mark.slow
def test_labels_are_inferred_where_nothing_is_defended(told: Told) -> None:
    assert told.leakage("none", "architecture+k labels", "labels") > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_contract_alone_finds_no_fault_but_with_not_a_number(file: Path) -> None:
    broken = [check for check in verify("defense", f"{file}:{class_of(file)}") if check.problem is not None]
    assert bool(broken) == (file.stem == "not_a_number")
