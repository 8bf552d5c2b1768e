from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attacks.base import Attack
from benchmark.cell import Group, Plan
from benchmark.context import RunContext
from benchmark.executors import inline
from benchmark.run import InterruptedRunError, RunOutcome, records_of, run_plan
from benchmark.store import Store
from tests.plugins.faulty import Steady
from tests.specs import cell_of, victim_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.data import Dataset
    from benchmark.record import Record

FAULTY = Path(__file__).parent / "plugins" / "faulty.py"
QUIET, LOUD = "gaussian_noise:sigma=0.1", "gaussian_noise:sigma=5.0"


@pytest.fixture(scope="module")
def group_of(digits: Dataset) -> Callable[..., Group]:
    def build(attack: object) -> Group:
        victims = [victim_spec(digits, defense, epochs=0) for defense in (QUIET, LOUD)]
        attack = f"{FAULTY}:{attack}" if isinstance(attack, str) else attack
        return Group(tuple(cell_of(victim, attack) for victim in victims))

    return build


@pytest.fixture(scope="module")
def steady(group_of: Callable[..., Group]) -> Plan:
    return Plan("mine", "d1", (group_of("Steady"),))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext("mine", "d1", str(tmp_path_factory.mktemp("victims")), verdicts={})


@pytest.fixture(scope="module")
def measured(steady: Plan, context: RunContext) -> list[Record]:
    """What an undisturbed run makes of `steady`."""
    records: list[Record] = []
    inline.run(steady.groups, context, records.append)
    return records


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def ran(plan: Plan, store: Store, context: RunContext, **options: object) -> tuple[RunOutcome, list[Record]]:
    """How a run ended, and the records it made itself."""
    made: list[Record] = []
    outcome = run_plan(
        plan,
        store,
        replace(context, suite=plan.suite, suite_digest=plan.suite_digest),
        executor="inline",
        on_record=made.append,
        **{"released": {}, **options},
    )
    return outcome, made


def test_a_run_measures_every_cell_and_keeps_it(steady: Plan, store: Store, context: RunContext) -> None:
    outcome, made = ran(steady, store, context)
    assert outcome == RunOutcome(n_planned=2, n_done=2, n_failed=0, n_skipped=0, n_reused=0)
    assert outcome.complete
    assert {r.key: r for r in made} == {r.key: r for r in store.records("mine", "d1")}


def test_a_second_run_computes_nothing(steady: Plan, store: Store, context: RunContext, measured: list[Record]) -> None:
    store.put_all(measured)
    assert ran(steady, store, context) == (RunOutcome(2, 2, 0, 0, n_reused=2), [])


def test_a_resumed_group_runs_whole_and_keeps_only_what_was_missing(
    steady: Plan, store: Store, context: RunContext, measured: list[Record]
) -> None:
    kept = replace(measured[0], scalars={"mark": 1.0})
    store.put(kept)
    outcome, made = ran(steady, store, context)
    assert (outcome.n_done, outcome.n_reused) == (2, 1)
    assert [record.key for record in made] == [measured[1].key]
    assert made[0].per_image == measured[1].per_image
    assert store.get([kept.key])[kept.key] == kept


def test_released_records_are_copied_and_marked_as_such(
    steady: Plan, store: Store, context: RunContext, measured: list[Record]
) -> None:
    released = {r.key: replace(r, suite="smoke-v1", suite_digest="other") for r in measured}
    outcome, made = ran(steady, store, context, released=released)
    assert (outcome.n_reused, made) == (2, [])
    assert {r.key: r for r in store.records("mine", "d1")} == {r.key: r for r in measured}
    assert set(store.origins(released, "d1").values()) == {"released mine"}


def test_what_was_run_for_another_suite_is_not_run_again(
    steady: Plan, store: Store, context: RunContext, measured: list[Record]
) -> None:
    store.put_all(measured)
    outcome, made = ran(replace(steady, suite="yours", suite_digest="d2"), store, context)
    assert (outcome.n_done, outcome.n_reused, made) == (2, 2, [])
    assert {r.suite for r in store.records("yours", "d2")} == {"yours"}


def test_a_released_failure_is_no_result(
    steady: Plan, store: Store, context: RunContext, measured: list[Record]
) -> None:
    released = {r.key: replace(r, status="failed", reason="no") for r in measured}
    outcome, made = ran(steady, store, context, released=released)
    assert (outcome.n_done, outcome.n_reused, len(made)) == (2, 0, 2)


def test_a_cell_that_fails_is_counted_and_recorded(
    group_of: Callable[..., Group], store: Store, context: RunContext
) -> None:
    outcome, _ = ran(Plan("mine", "d1", (group_of("Raises"),)), store, context)
    assert (outcome.n_done, outcome.n_failed, outcome.complete) == (1, 1, False)
    assert [record.reason for record in store.failed("mine")] == ["raised ValueError: no such luck while attacking"]


def test_what_failed_before_is_retried_by_itself(
    steady: Plan, store: Store, context: RunContext, measured: list[Record]
) -> None:
    store.put_all([measured[0], replace(measured[1], status="failed", reason="no")])
    groups: list[Group] = []
    outcome, made = ran(steady, store, context, on_progress=lambda group, *_: groups.append(group))
    assert (outcome.n_done, outcome.n_failed, outcome.n_reused) == (2, 0, 1)
    assert {len(group.cells) for group in groups} == {1}
    assert [record.key for record in made] == [measured[1].key]


def test_what_failed_before_is_left_alone_when_asked(
    steady: Plan, store: Store, context: RunContext, measured: list[Record]
) -> None:
    store.put_all([measured[0], replace(measured[1], status="failed", reason="no")])
    outcome, made = ran(steady, store, context, retry_failed=False)
    assert (outcome.n_done, outcome.n_failed, made) == (1, 1, [])


def test_what_another_run_does_meanwhile_is_not_done_twice(
    steady: Plan, group_of: Callable[..., Group], store: Store, context: RunContext, measured: list[Record]
) -> None:
    def other_run(group: Group, *_: object) -> None:
        store.put_all(measured)

    plan = replace(steady, groups=(group_of("Raises"), *steady.groups))
    outcome, made = ran(plan, store, context, on_progress=other_run)
    assert outcome.n_done == 3
    assert {record.axes.attack for record in made} == {"raises"}


def test_control_c_says_what_is_kept_and_how_to_go_on(
    steady: Plan, group_of: Callable[..., Group], store: Store, context: RunContext
) -> None:
    def interrupt(group: Group, *_: object) -> None:
        if group not in steady.groups:
            raise KeyboardInterrupt

    plan = replace(steady, groups=(*steady.groups, group_of("Raises")))
    with pytest.raises(
        InterruptedRunError, match=r"interrupted: 2 of 4 cells are kept in .*store\.sqlite; give the same"
    ):
        ran(plan, store, context, on_progress=interrupt)
    assert len(store.records("mine")) == 2


def test_a_plugin_that_lives_only_here_runs_here_whatever_the_executor(
    group_of: Callable[..., Group], store: Store, context: RunContext
) -> None:
    class Mine(Steady):
        name = "mine"

    plan = Plan("mine", "d1", (group_of(Mine()),))
    assert issubclass(Mine, Attack)
    outcome = run_plan(plan, store, context, executor="local", released={})
    assert outcome.n_done == 2


def test_records_of_a_plan_come_in_its_order_from_store_other_suites_and_release(
    steady: Plan, store: Store, measured: list[Record]
) -> None:
    stored, released = measured[1], measured[0]
    store.put(replace(stored, suite="other", suite_digest="d9"))
    store.put(replace(released, status="failed", reason="no"))
    found = records_of(steady, store, {released.key: replace(released, suite="old", suite_digest="d0")})
    assert found == measured


def test_records_of_a_plan_tell_a_failure_where_there_is_nothing_better(
    steady: Plan, store: Store, measured: list[Record]
) -> None:
    failed = replace(measured[0], status="failed", reason="no")
    store.put(failed)
    assert records_of(steady, store, {}) == [failed]
