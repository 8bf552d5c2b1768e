"""Plans that are made once and then read from their copy, as long as nothing they were made from has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmark import kept_plan as module
from benchmark.cell import Cell, Group, Plan
from benchmark.digest import HARNESS
from benchmark.kept_plan import kept_plan
from benchmark.locations import cache_home, data_state
from benchmark.plan import plan
from benchmark.suite import load_suite
from benchmark.suite_format import Suite

SUITE = """\
name: tiny
description: One victim under one attack.
dataset: mnist-5k
model: mnist_net
seeds: [0]
blocks:
  - name: inputs
    cuts: [pool2]
    defenses: [none, "{defense}"]
    attacks: [inverse_decoder]
"""
DEFENSE = '''
from typing import ClassVar
from defenses.base import Defense

class Halved(Defense):
    """Halves what is sent. Own work."""
    name: ClassVar[str] = "halved"
    side: ClassVar[str] = "activations"

    def protect_activations(self, z, rng, phase):
        return z / 2
'''


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def suite_with(folder: Path, defense: str = "gaussian_noise:sigma=0.5") -> Suite:
    (folder / "tiny.yaml").write_text(SUITE.format(defense=defense))
    return load_suite(folder / "tiny.yaml")


@pytest.fixture
def tiny(tmp_path: Path) -> Suite:
    return suite_with(tmp_path)


@pytest.fixture
def made(tiny: Suite) -> Plan:
    return kept_plan(tiny, (), None, lambda: plan(tiny))


def never() -> Plan:
    raise AssertionError("the copy was not used")


def again(suite: Suite, *outside: str) -> bool:
    """Whether the plan is made again."""
    asked = []

    def make() -> Plan:
        asked.append(suite)
        return plan(suite)

    kept_plan(suite, outside, None, make)
    return bool(asked)


def copies() -> list[Path]:
    return list((cache_home() / "plans").glob("*"))


def test_a_copy_is_the_plan_itself(tiny: Suite, made: Plan) -> None:
    assert kept_plan(tiny, (), None, never) == made


def test_a_plan_survives_as_json_with_its_keys(made: Plan) -> None:
    back = Plan.from_json(json.loads(json.dumps(made.to_json())))

    assert back == made
    assert [group.key() for group in back.groups] == [group.key() for group in made.groups]


def test_a_suite_that_says_something_else_is_planned_again(tmp_path: Path, made: Plan) -> None:
    assert again(suite_with(tmp_path, "gaussian_noise:sigma=0.6"))


def test_what_joins_from_outside_has_a_copy_of_its_own(tiny: Suite, made: Plan) -> None:
    assert again(tiny, "--defense laplace_noise")
    assert not again(tiny)
    assert len(copies()) == 2


def test_a_change_of_code_makes_the_plan_again_in_the_same_place(
    tiny: Suite, made: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("attacks", "benchmark", "defenses"):
        shutil.copytree(HARNESS / folder, tmp_path / "there" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "HARNESS", tmp_path / "there")
    assert not again(tiny)  # A copy keeps the time at which each file was changed.

    (tmp_path / "there" / "defenses" / "gaussian_noise.py").touch()

    assert again(tiny)
    assert not again(tiny)
    assert len(copies()) == 1


def test_other_pictures_make_the_plan_again(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "0").mkdir(parents=True)
    (tmp_path / "pictures" / "0" / "1.png").write_bytes(b"one")
    spec = f"image_folder:path={tmp_path / 'pictures'},size=32"
    before = data_state(spec)
    assert data_state(spec) == before

    (tmp_path / "pictures" / "0" / "1.png").write_bytes(b"other")

    assert before is not None
    assert data_state(spec) != before


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "image_folder:path=nowhere,size=32", "unknown"])
def test_data_that_are_not_there_have_no_state(name: str, tmp_path: Path) -> None:
    assert data_state(name, tmp_path) is None


def test_without_its_data_a_plan_is_not_kept(tmp_path: Path, made: Plan) -> None:
    text = SUITE.format(defense="max_norm").replace("mnist-5k", "mnist")
    (tmp_path / "absent.yaml").write_text(text)

    found = kept_plan(load_suite(tmp_path / "absent.yaml"), (), tmp_path, lambda: made)

    assert found is made
    assert len(copies()) == 1


def test_a_plugin_of_the_users_own_is_asked_every_time(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DEFENSE)
    mine = suite_with(tmp_path, "./mine.py:Halved")

    assert again(mine)
    assert again(mine)
    assert not copies()


@pytest.mark.parametrize("cut", [10, 2000])
def test_a_broken_copy_is_made_again(tiny: Suite, made: Plan, cut: int) -> None:
    (copy,) = copies()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-cut])

    assert again(tiny)
    assert copy.read_bytes() == whole


def test_a_changed_digit_in_a_copy_is_noticed(tiny: Suite, made: Plan) -> None:
    (copy,) = copies()
    whole = copy.read_bytes()
    copy.write_bytes(whole.replace(b'"sigma":0.5', b'"sigma":0.6'))

    assert again(tiny)
    assert copy.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_no_result(tiny: Suite, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert kept_plan(tiny, (), None, lambda: plan(tiny)) == plan(tiny)


def test_a_key_belongs_to_the_cell_and_not_to_the_object(made: Plan) -> None:
    cell = made.cells[0]
    assert Cell.from_json(cell.to_json()).key() == cell.key()
    assert Group((cell,)) == Group((Cell.from_json(cell.to_json()),))
