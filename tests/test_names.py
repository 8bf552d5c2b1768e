from __future__ import annotations

import pytest

from benchmark.report.names import legend, names_across, short_names

JOINT = "rounds=10,input_steps=20,jitter=0.05,clone=joint,restarts=8,select=consensus"


def test_an_attack_with_one_variant_is_printed_by_its_name_alone() -> None:
    assert short_names([("unsplit", JOINT), ("bias_sign", ""), ("unsplit", JOINT)]) == {
        ("unsplit", JOINT): "unsplit",
        ("bias_sign", ""): "bias_sign",
    }


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (["rounds=10", JOINT], ["unsplit", "unsplit (clone=joint)"]),
        (
            ["", "reads=both,rounds=20", "sign=ignored,rounds=20"],
            ["unsplit", "unsplit (reads=both)", "unsplit (sign=ignored)"],
        ),
        (["a=1,b=1", "a=1,b=2", "a=2,b=1"], ["unsplit (a=1, b=1)", "unsplit (a=1, b=2)", "unsplit (a=2, b=1)"]),
        (["", "sizes=[1,2],a=3", "sizes=[1,3],a=3"], ["unsplit", "unsplit (sizes=[1,2])", "unsplit (sizes=[1,3])"]),
    ],
    ids=["words before numbers", "a default beside two others", "two parameters", "commas inside a value"],
)
def test_variants_are_told_apart_by_the_fewest_parameters(variants: list[str], expected: list[str]) -> None:
    named = short_names([("unsplit", params) for params in variants])
    assert [named["unsplit", params] for params in variants] == expected


def test_variants_that_differ_in_many_parameters_still_have_different_names() -> None:
    base = {f"p{i}": 0 for i in range(30)}
    variants = [base, *({**base, name: 1} for name in base)]
    named = short_names([("unsplit", ",".join(f"{k}={v}" for k, v in one.items())) for one in variants])
    assert len(set(named.values())) == 31


def test_texts_that_are_no_parameters_still_have_different_names() -> None:
    assert len(set(short_names([("unsplit", "x"), ("unsplit", "x,x"), ("unsplit", "y")]).values())) == 3


def test_the_legend_gives_every_left_out_parameter_once() -> None:
    named = short_names([("unsplit", "rounds=10"), ("unsplit", JOINT), ("dp_sgd", "clip=1"), ("bias_sign", "")])
    assert legend(named) == [
        ("dp_sgd", "clip=1"),
        ("unsplit", "rounds=10"),
        ("unsplit (clone=joint)", JOINT.replace(",", ", ")),
    ]


def test_names_across_groups_are_unique_in_each_and_say_the_same_in_all() -> None:
    digits = [("a", ""), ("a", "clone=joint,restarts=8,rounds=10"), ("a", "clone=joint,restarts=8,rounds=10,pick=x")]
    photos = [("a", "rounds=5"), ("a", "clone=joint,restarts=4,rounds=10")]
    named = names_across([digits, photos, [("b", "steps=3")]])
    assert named[digits[1]] == named[photos[1]] == "a (clone=joint)"
    assert named[digits[2]] == "a (clone=joint, pick=x)"
    assert named["b", "steps=3"] == "b"
    assert all(len({named[one] for one in group}) == len(group) for group in (digits, photos))
