import re
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from benchmark.errors import UserError
from benchmark.parameters import Configured
from benchmark.spec import Spec, composed_from_yaml, from_yaml, parse_composed, parse_spec


class Everything(Configured):
    name: ClassVar[str] = "everything"

    text: str = "plain"
    number: float = 1.0
    count: int = Field(3, ge=0)
    switch: bool = False
    choice: str | None = None
    numbers: list[float] = []
    table: dict[str, int] = {}


FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANYTHING = st.builds(
    Everything,
    text=st.text(),
    number=FINITE,
    count=st.integers(min_value=0),
    switch=st.booleans(),
    choice=st.none() | st.text(min_size=1),
    numbers=st.lists(FINITE, max_size=3),
    table=st.dictionaries(st.text(), st.integers(), max_size=3),
)


@given(ANYTHING)
def test_what_spec_writes_is_read_back_to_an_equal_instance(plugin: Everything) -> None:
    spec = parse_spec(plugin.spec())
    assert spec.target == "everything"
    assert Everything.configured(dict(spec.parameters)) == plugin


@given(ANYTHING, ANYTHING)
def test_a_composition_written_with_plus_is_divided_again(first: Everything, second: Everything) -> None:
    specs = parse_composed(f"{first.spec()}+{second.spec()}")
    assert [Everything.configured(dict(spec.parameters)) for spec in specs] == [first, second]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Spec("none")),
        (" none ", Spec("none")),
        ("noise:sigma=0.5,phases=training", Spec("noise", {"sigma": 0.5, "phases": "training"})),
        ("noise:sigma=1e-3", Spec("noise", {"sigma": 0.001})),
        ("noise:phases=[training, inference]", Spec("noise", {"phases": ["training", "inference"]})),
        ("noise:label='a,b',on=true", Spec("noise", {"label": "a,b", "on": True})),
        ('noise:label="a\\",b"', Spec("noise", {"label": 'a",b'})),
        ("noise:on=yes", Spec("noise", {"on": "yes"})),
        ("noise:scale=null", Spec("noise", {"scale": None})),
        ("./mine.py", Spec("./mine.py")),
        ("./mine.py:Mine", Spec("./mine.py:Mine")),
        ("./mine.py:Mine:strength=2", Spec("./mine.py:Mine", {"strength": 2})),
        ("./mine.py:strength=2", Spec("./mine.py", {"strength": 2})),
        ("noise:path=/data/a.py", Spec("noise", {"path": "/data/a.py"})),
    ],
)
def test_a_text_is_read_into_target_and_parameters(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


def test_plus_composes_in_order_and_leaves_numbers_and_quotes_alone() -> None:
    specs = parse_composed("a:x=1e+5,s='p+q'+./b.py:B:y=2 + c")
    assert specs == (Spec("a", {"x": 1e5, "s": "p+q"}), Spec("./b.py:B", {"y": 2}), Spec("c"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no plug-in"),
        (":x=1", "names no plug-in"),
        ("noise:", "is not key=value"),
        ("noise:sigma", "'sigma' is not key=value"),
        ("noise:0=1", "'0=1' is not key=value"),
        ("noise:sigma=", "'sigma' has no value"),
        ("noise:sigma=1,sigma=2", "'sigma' is given twice"),
        ("noise:phases=[training", "']' is missing"),
        ("noise:label='a", "is missing at the end"),
        ("a+b:y", "'y' is not key=value"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_part_that_is_wrong(text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        parse_composed(text)


def test_a_suite_may_write_a_mapping_with_parameters() -> None:
    assert from_yaml({"dp_sgd": {"scope": "joint"}}) == Spec("dp_sgd", {"scope": "joint"})
    assert from_yaml({"none": None}) == Spec("none")


def test_a_list_in_a_suite_composes() -> None:
    assert composed_from_yaml(["a:x=1", {"b": {"y": 2}}]) == (Spec("a", {"x": 1}), Spec("b", {"y": 2}))


@pytest.mark.parametrize("value", [3, None, {"a": {}, "b": {}}, {"a": 3}, {1: {}}])
def test_other_yaml_values_name_no_plugin(value: object) -> None:
    with pytest.raises(UserError, match="names no plug-in"):
        from_yaml(value)


def test_an_empty_list_composes_nothing() -> None:
    with pytest.raises(UserError, match="write 'none'"):
        composed_from_yaml([])
