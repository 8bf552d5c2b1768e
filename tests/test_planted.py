"""Every attack succeeds on clients that hide nothing, before its failures count; none is named here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import registry
from benchmark.cell import PluginRef
from benchmark.planted import DEMANDS, PlantedClient, PlantedScore, meet, planted_clients
from benchmark.planted_data import PICTURES, SIZE, cut_patches, patches
from benchmark.planted_process import measure_apart
from benchmark.planted_verdicts import (
    Verdict,
    built_in,
    keep_verdict,
    known_verdict,
    measure,
    planted_reference,
    variants,
    verdict_key,
    with_verdict,
    write_verdicts,
)
from tests.record_factory import cell, record

FAULTY = Path(__file__).parent / "plugins" / "faulty.py"
PLANTED = Path(__file__).parent / "plugins" / "planted.py"
# The form each class states a budget for. The verdicts on its other stances are released with the code that they are of
# (test_planted_results.py).
FORMS = [pytest.param(refs[0], id=refs[0].name) for refs in built_in()]
IDENTITY = PlantedClient("identity", ("reconstruct",), "grey 28x28", "identity", "vanilla", "inference", 1)


def reference(name: str, file: Path = PLANTED) -> PluginRef:
    return registry.reference("attack", f"{file}:{name}")


def verdict(score: float | None = 0.95, goal: str = "reconstruct", problem: str | None = None) -> Verdict:
    found = PlantedScore("identity", goal, score, DEMANDS[goal][1], 10, 0.5, problem)  # type: ignore[index, arg-type]
    return Verdict("mine", "oblivious", ("architecture",), (found,))


@pytest.mark.slow
@pytest.mark.parametrize("ref", FORMS)
def test_a_built_in_attack_succeeds_where_it_has_to(ref: PluginRef) -> None:
    assert [score.sentence() for score in measure(ref).scores if not score.passed] == []


def test_every_built_in_attack_meets_a_planted_client_for_each_of_its_goals() -> None:
    for ref in (ref for refs in built_in() for ref in refs):
        attack = registry.load_attack(ref)
        assert {goal for client in planted_clients(attack) for goal in client.goals} == set(attack.goals), ref.name


def test_every_stance_and_every_knowledge_of_an_attack_is_tried() -> None:
    found = variants(registry.plugin("attack", f"{PLANTED}:TwoWays"), f"{PLANTED}:TwoWays")
    assert [(ref.parameters["stance"], ref.parameters["reads"]) for ref in found] == [
        ("oblivious", "smashed"),
        ("oblivious", "auxiliary"),
        ("aware", "smashed"),
        ("aware", "auxiliary"),
    ]


def test_parts_of_a_picture_do_not_overlap() -> None:
    places = np.arange(150 * 225 * 3).reshape(150, 225, 3)
    parts = [set(cut_patches(places, part).ravel().tolist()) for part in ("victim", "auxiliary", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_there_are_enough_pictures_of_every_class() -> None:
    assert patches().n_classes == len(PICTURES)
    assert patches().image_shape == (3, SIZE, SIZE)
    assert torch.bincount(patches().auxiliary.labels).min() >= 50


def test_what_the_server_saw_of_an_identity_is_the_image() -> None:
    (score,) = meet(reference("Reads"), IDENTITY)
    assert score.score == pytest.approx(1.0)
    assert score.passed


def test_an_attack_that_answers_noise_fails() -> None:
    (score,) = meet(reference("Steady", FAULTY), IDENTITY)
    assert score.score is not None
    assert not score.passed
    assert "demanded 0.90" in score.sentence()


def test_an_attack_that_raises_fails_with_its_reason() -> None:
    (score,) = meet(reference("Fails"), IDENTITY)
    assert (score.score, score.passed) == (None, False)
    assert score.problem == "raised ValueError: not today while attacking"


def test_an_attack_that_asks_for_more_than_it_declares_fails() -> None:
    (score,) = meet(reference("Greedy"), IDENTITY)
    assert score.problem is not None
    assert "asked its view for 'auxiliary'" in score.problem


@pytest.mark.slow
def test_what_hangs_in_a_process_of_its_own_fails_and_keeps_what_it_had_reached(tmp_path: Path) -> None:
    found = measure_apart(reference("HangsLater"), tmp_path / "log", limit_seconds=15)
    assert not found.passed
    assert found.scores[0].passed
    assert "exceeded 15 s" in str(found.scores[-1].problem)
    assert len(found.scores) == len(planted_clients(registry.load_attack(reference("HangsLater"))))


@pytest.mark.slow
def test_a_process_that_dies_fails_with_its_code(tmp_path: Path) -> None:
    found = measure_apart(reference("Dies"), tmp_path / "log")
    assert {score.problem for score in found.scores} == {"its process ended with code 7; see log"}


def test_a_verdict_is_of_code_stance_and_knowledge_and_not_of_other_parameters() -> None:
    def key(parameters: str = "") -> str:
        return verdict_key(registry.reference("attack", f"{PLANTED}:TwoWays{parameters}"))

    assert key() == key(":steps=7")
    assert len({key(), key(":stance=aware"), key(":reads=auxiliary")}) == 3


def test_an_attack_meets_planted_clients_with_its_budget_and_its_cells_knowledge() -> None:
    ref = registry.reference("attack", f"{PLANTED}:TwoWays:steps=7,reads=auxiliary,stance=aware")
    met = planted_reference(ref)
    assert {name: met.parameters[name] for name in ("steps", "reads", "stance")} == {
        "steps": 100,
        "reads": "auxiliary",
        "stance": "aware",
    }
    assert verdict_key(met) == verdict_key(ref)


def test_a_verdict_is_kept_and_found_again(tmp_path: Path) -> None:
    for made in (verdict(), verdict(None, problem="raised ValueError")):
        keep_verdict("a" * 64, made, tmp_path)
        assert known_verdict("a" * 64, tmp_path) == made


def test_a_broken_or_missing_file_is_no_verdict(tmp_path: Path) -> None:
    assert known_verdict("b" * 64, tmp_path) is None
    keep_verdict("b" * 64, verdict(), tmp_path)
    (tmp_path / "planted" / f"{'b' * 64}.json").write_text('{"attack": "mine"}')
    assert known_verdict("b" * 64, tmp_path) is None


def test_an_attack_that_met_no_planted_client_has_not_passed() -> None:
    assert not replace(verdict(), scores=()).passed


def test_a_record_says_what_came_of_it() -> None:
    passed = with_verdict(record(cell()), verdict())
    failed = with_verdict(record(cell()), verdict(0.85))
    assert passed.flags == []
    assert failed.flags == ["planted_client_failed"]
    assert (failed.run["planted"]["client"], failed.run["planted"]["score"]) == ("identity", 0.85)


def test_a_record_without_a_verdict_does_not_read_as_passed() -> None:
    unknown = with_verdict(record(cell()), None)
    assert unknown.flags == ["planted_client_unknown"]
    assert unknown.run["planted"] is None


def test_a_goal_without_a_planted_client_has_not_passed() -> None:
    failed = with_verdict(record(cell(goals=("reconstruct", "steal"))), verdict())
    assert failed.run["planted"]["goals"] == {"reconstruct": True, "steal": False}
    assert failed.flags == ["planted_client_failed"]


def test_released_verdicts_are_written_the_same_to_the_byte(tmp_path: Path) -> None:
    one, other = {"a": verdict(), "b": verdict(0.5)}, {"b": verdict(0.5), "a": verdict()}
    write_verdicts(one, tmp_path / "one.json")
    write_verdicts(other, tmp_path / "other.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
