from __future__ import annotations

from benchmark.report.verdicts import short_cells
from benchmark.rows import axes_text
from tests.record_factory import cell


def test_cells_are_printed_by_what_tells_them_apart() -> None:
    long = "rounds=10,clone=joint,restarts=8"
    cells = [cell(attack_params=long), cell("dp_sgd", "clip=1", seed=1, attack_params="rounds=10")]
    short, shared, _ = short_cells([axes_text(one.axes()) for one in cells])
    assert short[0].startswith("defense=none | attack=unsplit (clone=joint) | ")
    assert short[1].startswith("defense=dp_sgd (clip=1) | attack=unsplit | ")
    assert "dataset=mnist-5k" in shared
    assert not any("dataset" in text or "restarts" in text for text in short)


def test_a_cell_alone_still_says_its_defense_and_attack() -> None:
    short, shared, _ = short_cells([axes_text(cell().axes())])
    assert short == ["defense=none | attack=unsplit"]
    assert "seed=0" in shared


def test_values_that_look_like_axes_are_read_as_values() -> None:
    (short,), _, _ = short_cells([axes_text(cell("odd", "x=1 | attack=b").axes())])
    assert short == "defense=odd (x=1 | attack=b) | attack=unsplit"


def test_no_cells_give_no_texts() -> None:
    assert short_cells([]) == ([], "", {})
