"""The released verdicts are those of the attacks as they are. Remake them: unsplit-bench verify --all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark import planted_verdicts
from benchmark.commands.verdict import release_verdicts
from benchmark.planted_verdicts import Verdict, built_in, released_verdicts, variants, verdict_key
from benchmark.registry import plugin

PLANTED = Path(__file__).parent / "plugins" / "planted.py"


def test_every_built_in_attack_has_a_released_verdict_in_every_stance() -> None:
    wanted = {verdict_key(ref): f"{ref.name} ({ref.changed})" for refs in built_in() for ref in refs}
    assert sorted(text for key, text in wanted.items() if key not in released_verdicts()) == []


def test_no_released_verdict_is_of_an_attack_that_is_there_no_more() -> None:
    wanted = {verdict_key(ref) for refs in built_in() for ref in refs}
    assert sorted(verdict.attack for key, verdict in released_verdicts().items() if key not in wanted) == []


def test_every_built_in_attack_passed_in_every_stance_with_the_budget_that_its_class_states() -> None:
    first = {(ref.name, ref.parameters["stance"]): ref for refs in built_in() for ref in reversed(refs)}
    found = {place: released_verdicts().get(verdict_key(ref)) for place, ref in first.items()}
    assert [place for place, verdict in found.items() if verdict is None or not verdict.passed] == []


def test_verdicts_are_released_whether_they_pass_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"{PLANTED}:Reads"
    refs = variants(plugin("attack", target), target)
    monkeypatch.setattr(planted_verdicts, "built_in", lambda: [refs])
    assert release_verdicts(tmp_path / "planted.json") == 1
    written = json.loads((tmp_path / "planted.json").read_text())["verdicts"]
    assert [Verdict.from_json(value).passed for value in written.values()] == [False]
    assert list(written) == [verdict_key(ref) for ref in refs]
    assert "reads (oblivious) fails with its own budget" in capsys.readouterr().out
