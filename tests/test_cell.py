from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from benchmark import registry
from benchmark.cell import Cell, Plan, TargetRule, VictimSpec, content_key
from benchmark.data import Dataset
from tests.specs import WATCH, cell_of, victim_spec

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(), VALUES))
def test_a_key_ignores_the_order_of_a_dictionary(value: dict[str, object]) -> None:
    assert content_key("x", value) == content_key("x", dict(reversed(value.items())))


def test_a_cell_survives_its_own_json(digits: Dataset) -> None:
    assumed = registry.reference("model", "mnist_net_4x4")
    spec = victim_spec(digits, "gaussian_noise:relative=0.5", watch=replace(WATCH, batch_size=2))
    cell = cell_of(spec, "known_client", assumed=assumed)
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert (again.key(), again.axes()) == (cell.key(), cell.axes())


def test_everything_that_changes_an_outcome_changes_the_key(digits: Dataset) -> None:
    cell = cell_of(victim_spec(digits), "known_client")
    others = [
        cell_of(victim_spec(digits, seed=1), "known_client"),
        cell_of(victim_spec(digits, cut="pool2"), "known_client"),
        cell_of(victim_spec(digits, "gaussian_noise:relative=0.5"), "known_client"),
        cell_of(victim_spec(digits), "known_client:steps=7"),
        replace(cell, attack_seed=1),
        replace(cell, views=2),
        replace(cell, targets=TargetRule("per_class", 2)),
        replace(cell, precision="bf16"),
        replace(cell, attack=replace(cell.attack, digest="f" * 64)),
        replace(cell, attack=replace(cell.attack, version=99)),
        replace(cell, assumed=registry.reference("model", "mnist_net_4x4")),
        cell_of(victim_spec(digits, watch=WATCH), "known_client"),
        cell_of(victim_spec(digits, watch=replace(WATCH, batch_size=1)), "known_client"),
    ]
    assert len({cell.key(), *(other.key() for other in others)}) == len(others) + 1


def test_a_watch_of_epochs_has_the_key_it_had_before_there_was_another() -> None:
    assert WATCH.identity() == {"rule": {"how": "per_class", "n": 2, "seed": 0}, "known_per_class": 1}


def test_a_batch_that_was_watched_alone_shows_in_the_axes(digits: Dataset) -> None:
    spec = victim_spec(digits, topology="u_shaped", tail="fc3", watch=replace(WATCH, batch_size=64))
    assert cell_of(spec, "bias_sign", phase="training").axes().targets == "first_of_class; frozen batches of 64"
    assert cell_of(spec, "known_client").axes().targets == "first_of_class"


def test_where_a_plugin_lies_does_not_change_the_key(digits: Dataset) -> None:
    cell = cell_of(victim_spec(digits), "known_client")
    moved = replace(cell, attack=replace(cell.attack, source="/elsewhere/known_client.py:KnownClient"))
    assert moved.key() == cell.key()


def test_undefended_weights_are_shared_by_cuts_and_topologies_and_defended_ones_are_not(digits: Dataset) -> None:
    def keys(*defenses: str) -> set[str]:
        specs: list[VictimSpec] = [
            victim_spec(digits, *defenses, cut="pool1"),
            victim_spec(digits, *defenses, cut="pool2"),
            victim_spec(digits, *defenses, topology="u_shaped", tail="fc3", watch=WATCH),
        ]
        return {spec.weights_key() for spec in specs}

    assert len(keys()) == 1
    assert len(keys("none")) == 1
    assert len(keys("gaussian_noise:relative=0.5")) == 3


def test_a_plan_lists_the_cells_of_all_its_groups() -> None:
    assert Plan("s", "0", ()).cells == ()
