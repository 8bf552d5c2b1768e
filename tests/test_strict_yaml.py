import pytest

from benchmark.errors import UserError
from benchmark.strict_yaml import load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2.5E+4", -2.5e4),
        ("12", 12),
        ("010", "010"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("'1'", "1"),
        ("{a: [1, x]}", {"a": [1, "x"]}),
    ],
)
def test_scalars_are_read_by_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    read = load_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(UserError, match=r"here, line 3: key 'a' is given twice \(first on line 1\)"):
        load_yaml("a: 1\nb: 2\na: 3\n", "here")


def test_a_key_given_twice_deep_inside_is_refused() -> None:
    with pytest.raises(UserError, match="line 3"):
        load_yaml("- x:\n    a: 1\n    a: 2\n", "here")


def test_broken_yaml_names_source_and_line() -> None:
    with pytest.raises(UserError, match="here, line 2"):
        load_yaml("a: 1\nb: ]\n", "here")


def test_tags_that_build_objects_are_refused() -> None:
    with pytest.raises(UserError, match="line 1"):
        load_yaml("!!python/object/apply:os.getcwd []", "here")


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "&a [[*a]]"])
def test_what_holds_itself_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="here, line 1: found unconstructable recursive node"):
        load_yaml(text, "here")


def test_an_alias_repeats_what_its_anchor_names() -> None:
    assert load_yaml("a: &one {x: [1]}\nb: *one", "here") == {"a": {"x": [1]}, "b": {"x": [1]}}


def test_lists_too_deep_to_read_are_refused() -> None:
    with pytest.raises(UserError, match="here: lists or mappings stand too deep in one another"):
        load_yaml("[" * 3000 + "]" * 3000, "here")
