"""What comes from outside, mutated by Hypothesis: each text and tree is read, or refused in one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from benchmark.errors import UserError
from benchmark.parameters import Configured
from benchmark.record import RESULTS_VERSION, SCHEMA, Record, read_record
from benchmark.released import MANIFEST, RECORDS, read_released, write_released
from benchmark.spec import Spec, composed_from_yaml, parse_composed
from benchmark.store import Store, record_text
from benchmark.suite import read_suite
from benchmark.suite_format import Suite
from tests.record_factory import cell, record
from tests.test_suite import TEXT

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
PARSED = yaml.safe_load(TEXT)
BODY = record(cell(), run={"seconds": 1.0, "results": RESULTS_VERSION}).to_json()


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a tree of mappings and lists."""
    inner = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one to three of its values replaced, dropped or joined by another."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([place for place in places(tree) if place] or [("",)]))
        holder = tree
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "drop", "join"]))
        if change == "drop" and last in (holder if isinstance(holder, dict) else range(len(holder))):
            del holder[last]
        elif change == "join" and isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = draw(TREES)
        else:
            holder[last] = draw(TREES)
    return tree


def one_sentence(error: Exception, names: str = "") -> None:
    assert str(error).strip()
    assert names in str(error)
    assert "Traceback" not in str(error)


def read_as_suite(text: str) -> None:
    try:
        assert isinstance(read_suite(text, Path("suites/little.yaml")), Suite)
    except UserError as error:
        one_sentence(error, "suites/little.yaml")


@MANY
@given(TREES)
def test_any_tree_is_a_suite_or_one_sentence(tree: Any) -> None:
    read_as_suite(yaml.safe_dump(tree, allow_unicode=True))


@MANY
@given(mutated(PARSED))
def test_a_mutated_suite_is_a_suite_or_one_sentence(tree: Any) -> None:
    read_as_suite(yaml.safe_dump(tree, allow_unicode=True))


@MANY
@given(st.text())
@example("!!python/object/apply:os.system [id]")
@example("&a [*a]")
@example("? [a]\n: b")
@example("a: !!binary x")
@example("a: !!set {b}")
@example("0x: 1_0")
@example("9" * 5000)
@example("!!int x")
@example("!!bool x")
@example("!!timestamp x")
@example('!!int ""')
def test_any_text_is_a_suite_or_one_sentence(text: str) -> None:
    read_as_suite(text)


@MANY
@given(st.text(alphabet=st.sampled_from("ab.py:=,+'\"[]{}()\\ 019e-~/\n\0é"), max_size=30) | st.text(max_size=30))
@example("a:x=" + "[" * 5000 + "]" * 5000)
@example("a:x=" + "9" * 5000)
@example("a:x=!!python/name:os.system")
@example("a:x=NaN")
def test_any_text_is_plug_ins_or_one_sentence(text: str) -> None:
    try:
        assert all(isinstance(spec, Spec) and spec.target for spec in parse_composed(text))
    except UserError as error:
        one_sentence(error)


@MANY
@given(TREES)
def test_any_tree_is_plug_ins_or_one_sentence(tree: Any) -> None:
    try:
        assert all(isinstance(spec, Spec) and spec.target for spec in composed_from_yaml(tree))
    except UserError as error:
        one_sentence(error)


class Typed(Configured):
    """One parameter of each kind."""

    name: ClassVar[str] = "typed"
    number: float = Field(1.0, ge=0, le=10)
    count: int = Field(3, ge=1)
    switch: bool = False
    words: list[str] = []
    table: dict[str, float] = {}


@MANY
@given(st.dictionaries(st.sampled_from([*Typed.model_fields, "other"]) | st.text(max_size=6), TREES, max_size=4))
def test_any_parameters_are_taken_within_bounds_or_refused_in_one_sentence(parameters: dict[str, Any]) -> None:
    try:
        made = Typed.configured(parameters)
    except UserError as error:
        one_sentence(error, "typed")
    else:
        assert 0 <= made.number <= 10
        assert made.count >= 1
        assert json.loads(json.dumps(made.parameters(), allow_nan=False)) == made.parameters()


@MANY
@given(mutated(BODY))
def test_a_mutated_record_is_a_whole_record_or_refused(tree: Any) -> None:
    try:
        read = read_record(json.dumps(tree))
    except ValueError as error:
        one_sentence(error)
        return
    assert Record.from_json(json.loads(record_text(read))) == read
    assert read.status in ("done", "failed", "skipped")
    assert all(isinstance(value, int | float) for values in read.per_image.values() for value in values)


@MANY
@given(st.text())
@example("[" * 100_000)
@example("NaN")
@example('{"schema": "2"}')
@example('{"axes": null}')
def test_any_text_is_refused_as_a_record(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - whatever it says, as long as it says something
        read_record(text)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("status", "perfect", "status"),
        ("per_image", {"ssim_aligned": [float("nan")]}, "not JSON compliant"),
        ("per_image", {"ssim_aligned": ["0.5"]}, "per_image.ssim_aligned.0"),
        ("scalars", {"steal_accuracy": True}, "scalars.steal_accuracy"),
        ("run", {"seconds": float("inf")}, "not JSON compliant"),
        ("reason", "\ud800", "surrogates not allowed"),
        ("key", "../../victims/x", "is no key"),
        ("axes", {**BODY["axes"], "seed": 2**70}, "axes.seed has more than 64 bits"),
        ("axes", {**BODY["axes"], "colour": "red"}, "axes.colour"),
        ("schema", SCHEMA + 1, "record schema 3 is newer than 2; upgrade unsplit-bench"),
        ("run", {"results": RESULTS_VERSION + 1}, "results version 3 is newer than 2; upgrade unsplit-bench"),
    ],
)
def test_what_no_record_can_hold_is_named(key: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Record.from_json({**BODY, key: value})


@settings(MANY, max_examples=40)
@given(mutated(BODY))
def test_a_mutated_row_of_released_records_is_read_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    root = tmp_path_factory.mktemp("released")
    write_released([record(cell())], root / "smoke-v1")
    file = root / "smoke-v1" / RECORDS
    table = pq.read_table(file)
    bodies = pa.array([json.dumps(tree)])
    pq.write_table(table.set_column(table.schema.get_field_index("body"), "body", bodies), file)
    vouch(root / "smoke-v1")
    try:
        assert all(isinstance(found, Record) for found in read_released("smoke-v1", root).values())
    except UserError as error:
        one_sentence(error)


def vouch(folder: Path) -> None:
    """Have the manifest state the checksum of the records as they are now, as whoever forged them would."""
    stated = json.loads((folder / MANIFEST).read_text())
    stated["sha256"] = hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(stated))


@pytest.mark.parametrize("newer", [{"schema": SCHEMA + 1}, {"run": {"results": RESULTS_VERSION + 1}}], ids=str)
def test_a_record_of_a_newer_program_in_the_store_is_refused_and_left_as_it_is(
    tmp_path: Path, newer: dict[str, Any]
) -> None:
    made = replace(record(cell()), **newer)
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put(made)
    with Store(path) as store:
        with pytest.raises(UserError, match=r"store .* is newer than 2; upgrade unsplit-bench"):
            store.records(made.suite)
        store.put(record(cell(), scalars={"x": 1.0}))
    connection = sqlite3.connect(path)
    [(body,)] = connection.execute("SELECT body FROM records").fetchall()
    connection.close()
    assert body == record_text(made)
