from pathlib import Path

import pytest

from benchmark import registry
from benchmark.discovery import Kind
from benchmark.errors import UserError
from benchmark.scaffold import write_start
from benchmark.verify import verify

KINDS: tuple[Kind, ...] = ("defense", "attack")
# A defense: eight of the class, nine of its hooks in each of two topologies. An attack: seven of the class, seven of
# its runs in each phase and topology that it works in; the start works in one phase of one topology.
CHECKS = {"defense": 8 + 9 * 2, "attack": 7 + 7 * 1}


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_keeps_the_contract_as_it_is(kind: Kind, tmp_path: Path) -> None:
    file = tmp_path / f"my_{kind}.py"
    write_start(kind, file)
    checks = list(verify(kind, f"{file}:My{kind.capitalize()}"))
    assert [check for check in checks if check.problem is not None] == []
    assert len(checks) == CHECKS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_called_as_its_file(kind: Kind, tmp_path: Path) -> None:
    write_start(kind, tmp_path / "shy_noise_2.py")
    assert registry.plugin(kind, f"{tmp_path / 'shy_noise_2.py'}:ShyNoise2").name == "shy_noise_2"


def test_what_to_do_next_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = write_start("defense", Path("mine.py"))
    assert "unsplit-bench verify ./mine.py:Mine" in said
    assert "--defense ./mine.py:Mine" in said


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("precious = 1\n")
    with pytest.raises(UserError, match="exists already"):
        write_start("defense", file)
    assert file.read_text() == "precious = 1\n"


@pytest.mark.parametrize("name", ["My.py", "my-defense.py", "mine", "class.py", "1st.py"])
def test_a_name_that_cannot_be_a_plugins_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="write lower_case_with_underscores"):
        write_start("defense", tmp_path / name)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_start("attack", tmp_path / "nowhere" / "mine.py")
