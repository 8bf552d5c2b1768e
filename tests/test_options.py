"""Options are declared once, and a command's line follows from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmark.options import MEASURING, READING, Options, takes


@pytest.fixture
def asked() -> list[tuple[Options, str]]:
    return []


@pytest.fixture
def app(asked: list[tuple[Options, str]]) -> typer.Typer:
    made = typer.Typer()

    @made.command()
    @takes(*MEASURING, "fresh")
    def measure(options: Options, word: str = "none") -> None:
        """Say what was asked."""
        asked.append((options, word))

    return made


def test_what_was_written_arrives_as_one_object(app: typer.Typer, asked: list[tuple[Options, str]]) -> None:
    words = ["mine", "--defense", "none", "--defense", "dropout", "--output", "there", "--workers", "3", "--fresh"]
    CliRunner().invoke(app, [*words, "--word", "own"], catch_exceptions=False)
    assert asked == [
        (Options("mine", defenses=("none", "dropout"), output=Path("there"), workers=3, fresh=True), "own")
    ]


def test_what_was_not_written_is_what_the_declaration_says(app: typer.Typer, asked: list[tuple[Options, str]]) -> None:
    CliRunner().invoke(app, ["mine"], catch_exceptions=False)
    assert asked == [(Options("mine"), "none")]


@pytest.mark.parametrize("words", [["--device", "tpu"], ["--workers", "0"], ["--memory", "0"], ["--limit", "-1"]])
def test_what_is_out_of_bounds_is_refused(words: list[str], app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["mine", *words]).exit_code == 2


def test_an_option_that_a_command_does_not_take_is_refused(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["mine", "--executor", "ray"]).exit_code == 2


def test_the_help_says_what_happens_without_an_option(app: typer.Typer) -> None:
    assert "one a core" in CliRunner().invoke(app, ["--help"]).output


def test_groups_name_declared_options() -> None:
    assert {*READING, *MEASURING} <= {field.name for field in dataclasses.fields(Options)}
