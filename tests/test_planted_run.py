"""A run always has a verdict on its attacks, measured once and at no cell's expense."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmark.cell import Group, Plan, PluginRef
from benchmark.context import RunContext
from benchmark.planted_run import with_verdicts
from benchmark.planted_verdicts import Verdict
from benchmark.run import run_plan
from benchmark.store import Store
from tests.specs import cell_of, victim_spec

if TYPE_CHECKING:
    from benchmark.data import Dataset

PLANTED = Path(__file__).parent / "plugins" / "planted.py"

Call = tuple[str, float, bool | None]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("victims")


def group(digits: Dataset, *attacks: str) -> Group:
    victim = victim_spec(digits, epochs=0)
    return Group(tuple(cell_of(victim, f"{PLANTED}:{attack}") for attack in attacks))


def given(context: RunContext, groups: list[Group], logs: Path) -> tuple[RunContext, list[Call]]:
    calls: list[Call] = []

    def hear(ref: PluginRef, fraction: float, verdict: Verdict | None) -> None:
        calls.append((ref.name, fraction, None if verdict is None else verdict.passed))

    return with_verdicts(context, groups, logs, here=True, on_planted=hear), calls


def test_variants_of_an_attack_share_a_verdict_and_it_is_measured_once(digits: Dataset, cache: Path) -> None:
    context = RunContext("mine", "d1", str(cache))
    groups = [group(digits, "TwoWays:steps=1"), group(digits, "TwoWays:steps=2")]
    first, calls = given(context, groups, cache)
    assert calls[0] == ("two_ways", 0.0, None)
    assert calls[-1] == ("two_ways", 1.0, False)
    again, no_calls = given(context, groups, cache)
    assert no_calls == []
    assert again.verdicts == first.verdicts
    assert len(first.verdicts or {}) == 1


def test_verdicts_that_a_run_is_given_are_taken_as_they_are(digits: Dataset, cache: Path) -> None:
    context = RunContext("mine", "d1", str(cache), verdicts={})
    assert given(context, [group(digits, "Fails")], cache) == (context, [])


@pytest.mark.slow
def test_a_run_measures_in_a_process_of_its_own_and_its_records_say_so(digits: Dataset, tmp_path: Path) -> None:
    plan = Plan("mine", "d1", (group(digits, "Reads"), group(digits, "Dies")))
    with Store(tmp_path / "store.sqlite") as store:
        run_plan(plan, store, RunContext("mine", "d1", str(tmp_path / "victims")), workers=1, released={})
        records = {record.axes.attack: record for record in store.records("mine", "d1")}
    assert {name: record.status for name, record in records.items()} == {"reads": "done", "dies": "failed"}
    reads = records["reads"]
    assert reads.flags == ["planted_client_failed"]
    assert reads.run["planted"]["client"].startswith("one unknown convolution, ")
    assert reads.run["planted"]["score"] < reads.run["planted"]["demand"] == 0.9
    assert len(list((tmp_path / "victims" / "planted").glob("*.json"))) == 2
