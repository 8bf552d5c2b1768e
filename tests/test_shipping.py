from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmark import registry
from benchmark.cell import Group
from benchmark.errors import PluginError
from benchmark.executors.shipping import pack, unpacked
from tests.specs import cell_of, victim_spec

if TYPE_CHECKING:
    from benchmark.data import Dataset

DEFENSE = """
from typing import ClassVar

from defenses.base import Defense
from inner.noise import sigma


class Mine(Defense):
    name: ClassVar[str] = "mine"

    def protect_activations(self, z, rng, phase):
        return z + sigma() * rng.normal_like(z)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a plug-in, what it imports, and what it does not."""
    folder = tmp_path / "home"
    (folder / "inner").mkdir(parents=True)
    (folder / "mine.py").write_text(DEFENSE)
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "noise.py").write_text("def sigma():\n    return 0.5\n")
    (folder / "secret.csv").write_text("1,2,3\n")
    (folder / "other.py").write_text("")
    return folder


@pytest.fixture
def group_of(digits: Dataset, home: Path) -> Callable[[], Group]:
    return lambda: Group((cell_of(victim_spec(digits, f"{home / 'mine.py'}:Mine"), "unsplit"),))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_shipped_of_a_plug_in_is_what_its_digest_covers(group_of: Callable[[], Group], tmp_path: Path) -> None:
    packed = pack(tmp_path / "sent", [group_of()])
    (place,) = packed.values()
    folder = tmp_path / "sent" / Path(place).parent
    assert files(folder) == {"mine.py", "inner/__init__.py", "inner/noise.py"}


def test_a_plug_in_whose_file_is_not_there_is_loaded_from_what_was_shipped(
    group_of: Callable[[], Group], home: Path, tmp_path: Path
) -> None:
    group = group_of()
    packed = pack(tmp_path / "sent", [group])
    home.rename(tmp_path / "elsewhere")
    (cell,) = unpacked(group, tmp_path / "sent", packed).cells
    (ref,) = cell.victim.defenses
    assert Path(ref.source.rpartition(":")[0]).is_relative_to(tmp_path / "sent")
    assert registry.load_defense(ref).name == "mine"
    assert cell.key() == group.cells[0].key()


def test_a_plug_in_whose_file_is_there_stays_where_it_is(group_of: Callable[[], Group], tmp_path: Path) -> None:
    group = group_of()
    assert unpacked(group, tmp_path / "sent", pack(tmp_path / "sent", [group])) == group


def test_another_file_at_the_same_place_is_not_taken_for_the_plug_in(
    group_of: Callable[[], Group], home: Path, tmp_path: Path
) -> None:
    group = group_of()
    packed = pack(tmp_path / "sent", [group])
    (home / "inner" / "noise.py").write_text("def sigma():\n    return 0.0\n")
    assert unpacked(group, tmp_path / "sent", packed) != group


def test_a_plug_in_that_changed_since_the_plan_is_not_shipped(
    group_of: Callable[[], Group], home: Path, tmp_path: Path
) -> None:
    group = group_of()
    (home / "mine.py").write_text(DEFENSE.replace("normal_like", "uniform_like"))
    with pytest.raises(PluginError, match=r"mine\.py changed since the plan was made; run again"):
        pack(tmp_path / "sent", [group])


def test_built_in_plug_ins_are_left_to_the_harness(digits: Dataset, tmp_path: Path) -> None:
    group = Group((cell_of(victim_spec(digits, "gaussian_noise:sigma=0.5"), "unsplit"),))
    assert pack(tmp_path / "sent", [group]) == {}
    assert not (tmp_path / "sent" / "plugins").exists()


def test_the_shipped_harness_gives_a_cell_the_same_key(group_of: Callable[[], Group], tmp_path: Path) -> None:
    group = group_of()
    pack(tmp_path / "sent", [group])
    code = (
        "import json, sys; from pathlib import Path; import benchmark.cell as c; from benchmark import registry;"
        "cell = c.Cell.from_json(json.load(sys.stdin)); registry.load_attack(cell.attack);"
        "print(Path(c.__file__).parents[1].resolve(), cell.key())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "sent",
        env={"PYTHONPATH": ""},
        input=json.dumps(group.cells[0].to_json()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str((tmp_path / "sent").resolve()), group.cells[0].key()]
