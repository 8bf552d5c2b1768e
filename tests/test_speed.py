"""The table of speed: what it holds, how numbers become verdicts, and what is refused. No test minds how fast it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmark.cli import main
from benchmark.commands.speed import MEASURES, chosen
from benchmark.digest import HARNESS
from benchmark.errors import UserError
from benchmark.speed.line import BY_NAME, LINES, Line, Measured, Spread, short
from benchmark.speed.page import BEGIN, END, table, written_into
from benchmark.speed.setting import machine

FLOOR = Line("floor", "this", "that", 25, "at least", "x")
CEILING = Line("ceiling", "this", "that", 3, "at most", "s")
PAGE = HARNESS / "docs" / "speed.md"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["speed", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_a_spread_is_the_median_with_minimum_and_maximum() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0, 3)


@pytest.mark.parametrize(
    ("line", "middle", "met"),
    [(FLOOR, 25.0, True), (FLOOR, 24.9, False), (CEILING, 3.0, True), (CEILING, 3.1, False)],
)
def test_the_median_decides_whether_a_floor_is_met(line: Line, middle: float, met: bool) -> None:
    # The extremes lie on the other side of either bound.
    assert Measured(line, Spread(middle, 0.0, 1000.0, 3)).met is met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    nothing = Measured(FLOOR, None, ("Not in this version.",))
    assert nothing.met is None
    assert nothing.verdict() == "not measured"
    assert nothing.number() == "—"


def test_a_number_is_told_with_its_extremes_and_unit() -> None:
    assert Measured(FLOOR, Spread(31.44, 30.0, 1234.5, 3)).number() == "31.4x (30 to 1234)"
    assert Measured(CEILING, Spread(2.5, 2.25, 3.0, 3)).number() == "2.5 s (2.25 to 3)"


@pytest.mark.parametrize(("value", "text"), [(0.0123456, "0.0123"), (99.96, "100"), (123456.0, "123456")])
def test_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert short(value) == text


def test_the_floors_are_those_that_the_project_was_given() -> None:
    floors = {line.name: line.demand() for line in LINES}
    assert floors == {
        "mnist": "at least 25x",
        "cifar": "at least 3x",
        "cifar-bfloat16": "at least 5x",
        "joint": "at least 100x",
        "lanes": "at most 1x",
        "strength": "at most 1x",
        "complete": "at most 3 s",
        "share": "at most 5 %",
        "loading": "at most 2 s",
    }


def test_every_line_has_its_measurement() -> None:
    assert MEASURES.keys() == BY_NAME.keys()
    assert [name for names, _ in chosen(()) for name in names] == list(BY_NAME)


def test_single_lines_can_be_asked_for() -> None:
    assert [names for names, _ in chosen(["loading", "cifar-bfloat16"])] == [("cifar-bfloat16",), ("loading",)]


def test_the_table_has_machine_numbers_floors_and_facts() -> None:
    found = [
        Measured(FLOOR, Spread(31.4, 30.0, 33.0, 3), ("One fact.", "Another.")),
        Measured(CEILING, None, ("Why.",)),
    ]
    text = table(found, [("cores", "2")], "published loop")
    assert "Compared with: the published loop." in text
    assert "| floor | this | that | 31.4x (30 to 33) | at least 25x | yes |" in text
    assert "| ceiling | this | that | — | at most 3 s | not measured |" in text
    assert "| cores | 2 |" in text
    assert "- `floor`: One fact. Another.\n- `ceiling`: Why.\n" in text


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert "| cores | 2 \\| 4 |" in table([], [("cores", "2 | 4")], "published loop")


def test_writing_again_replaces_only_what_was_measured() -> None:
    page = f"# Ours\n\nBefore.\n\n{BEGIN}\n\nold\n\n{END}\n\nAfter.\n"
    once = written_into(page, "new\n", "speed.md")
    assert once == f"# Ours\n\nBefore.\n\n{BEGIN}\n\nnew\n\n{END}\n\nAfter.\n"
    assert written_into(once, "new\n", "speed.md") == once


def test_a_new_page_is_the_measured_part_alone() -> None:
    assert written_into("", "new\n", "speed.md") == f"{BEGIN}\n\nnew\n\n{END}\n"


@pytest.mark.parametrize("page", ["text", f"{END}\n{BEGIN}\n", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_one_place_for_the_table_is_left_alone(page: str) -> None:
    with pytest.raises(UserError, match="no place for the table"):
        written_into(page, "new\n", "speed.md")


def test_the_machine_is_named_with_its_load() -> None:
    named = dict(machine(3))
    assert named["processor"]
    assert "torch" in named["system"]
    assert named["threads"].startswith("3 processes of one thread")
    assert re.match(r"\d+\.\d\d, ", named["load at the start"])


def test_a_line_that_does_not_exist_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'loading'?" in refused(capsys, "--only", "loadin")


def test_a_folder_without_the_published_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "unsplit").mkdir()
    (tmp_path / "unsplit" / "attacks.py").touch()
    said = refused(capsys, "--only", "mnist", "--reference", str(tmp_path))
    assert "holds no unsplit/models.py" in said
    assert "git clone" in said


def test_a_page_is_not_written_from_some_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "all lines of one run" in refused(capsys, "--only", "loading", "-o", str(tmp_path / "speed.md"))


def test_a_file_without_a_place_for_the_table_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.md").write_text("my notes\n")
    assert "no place for the table" in refused(capsys, "-o", str(tmp_path / "own.md"))
    assert (tmp_path / "own.md").read_text() == "my notes\n"


def test_the_page_has_every_line_with_its_floor_and_how_it_is_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    measured = page.partition(BEGIN)[2].partition(END)[0]
    explained = page.replace(measured, "")
    for line in LINES:
        (row,) = re.findall(rf"^\| {line.name} \|.*$", measured, re.MULTILINE)
        assert f"| {line.demand()} |" in row
        assert f"`{line.name}`" in explained
