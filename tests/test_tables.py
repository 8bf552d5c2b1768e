from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from benchmark.errors import UserError
from benchmark.flags import FLAGS
from benchmark.gate import compare, make_baseline
from benchmark.leaderboard import COLUMNS, Leaderboard, images_frame, leaderboard
from benchmark.record import Record
from benchmark.report.cells import GAP
from benchmark.report.tables import FORMATS, render, to_csv, to_parquet, write
from benchmark.report.terminal import LETTERS, to_terminal, to_verdicts
from tests.record_factory import plan, record, records
from tests.test_leaderboard import DECODER, KNOWN, LABELS, claim, every_stance, seeds

CELLS = [
    *seeds(goals=("reconstruct", "steal")),
    *seeds(**KNOWN),
    *seeds(**LABELS),
    *every_stance("gaussian_noise", "sigma=0.5"),
    *seeds("dp_sgd", "scope=joint", **DECODER),
]
HOSTILE = "<b>|_x_`[red]\\%$#{&}~^\n,\"'\x1b[31m"


def found() -> list[Record]:
    done = records(CELLS[:-1])
    return [
        *done[:-2],
        *(record(one, privacy=[claim(1.5)]) for one in CELLS[-3:-1]),
        record(CELLS[-1], status="failed"),
    ]


def board() -> Leaderboard:
    return leaderboard(found(), plan(CELLS))


def everything() -> str:
    value = board()
    return "".join(render(value, form) for form in FORMATS) + to_csv(value.attacks)


def hostile() -> Leaderboard:
    return leaderboard(records(seeds(HOSTILE, HOSTILE, attack=HOSTILE)))


def unestablished() -> Leaderboard:
    return leaderboard(records(seeds(), convergence={"converged": False, "steps": 1}))


def shown(value: Leaderboard, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(to_terminal(value))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_a_table_is_the_same_to_the_byte_on_every_call_and_in_every_order(form: str) -> None:
    shuffled = random.Random(5).sample(found(), len(found()))
    assert render(board(), form) == render(board(), form) == render(leaderboard(shuffled, plan(CELLS)), form)


def test_tables_are_the_same_to_the_byte_in_another_process() -> None:
    # Another process hashes texts differently: what depended on the order of a set would show.
    code = "import sys; from tests.test_tables import *; sys.stdout.buffer.write(everything().encode())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=Path(__file__).parents[1])
    assert other.stdout.decode() == everything()


def test_csv_has_the_promised_columns_and_reads_back() -> None:
    text = render(board(), "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert "\r" not in text
    assert {row["goal"] for row in rows} == {"inputs", "labels", "client_model"}


def test_csv_numbers_have_four_digits_and_gaps_are_empty() -> None:
    rows = {
        row["defense"]: row for row in csv.DictReader(io.StringIO(render(board(), "csv"))) if row["goal"] == "inputs"
    }
    assert rows["none"]["utility"] == "0.9750"
    assert rows["none"]["rank"] == "1"
    assert rows["none"]["label_advantage"] == ""
    assert rows["dp_sgd"]["leakage"] == rows["dp_sgd"]["rank"] == ""
    assert (rows["dp_sgd"]["n_done"], rows["dp_sgd"]["n_planned"]) == ("2", "3")
    assert (rows["dp_sgd"]["epsilon_weights"], rows["dp_sgd"]["epsilon_labels"]) == ("1.5000", "inf")


def test_a_negative_zero_is_written_as_zero() -> None:
    assert to_csv(pd.DataFrame({"a": [-0.00001, -0.5]})) == "a\n0.0000\n-0.5000\n"


def test_csv_keeps_hostile_names_in_their_fields() -> None:
    (row,) = csv.DictReader(io.StringIO(render(hostile(), "csv")))
    assert row["defense"] == HOSTILE


def test_rates_are_printed_with_what_they_are_held_against_and_for_inputs_only() -> None:
    page = render(board(), "md")
    inputs, others = page.split("## Attacks")[0].split("## Labels")
    assert "| identified (chance) | recognised (truth) |" in inputs
    assert "identified" not in others.split("\\* on the")[0]
    assert "| 1.00 (0.01) |" in inputs


def test_records_without_rates_have_no_column_for_them() -> None:
    old = [replace(one, per_image={"ssim_aligned": one.per_image["ssim_aligned"]}) for one in records(seeds())]
    assert "identified" not in render(leaderboard(old), "md")


def test_a_wide_terminal_shows_the_rates_and_a_narrow_one_spares_them_first() -> None:
    wide, narrow = shown(board(), 160), shown(board(), 80)
    assert "1.00 (0.01)" in wide
    assert "1.00 (0.01)" not in narrow
    assert "utility" in narrow
    assert "(share by guessing)" in wide


def test_json_holds_all_tables_and_no_gap_as_a_number() -> None:
    value = json.loads(render(board(), "json"))
    assert tuple(value["rows"][0]) == COLUMNS
    gaps = [row for row in value["rows"] if row["leakage"] is None]
    assert [row["defense"] for row in gaps] == ["dp_sgd"]
    assert {note["flag"] for note in value["notes"]} == set(value["flags"])
    assert [claimed["epsilon"] for claimed in value["claims"]] == [1.5]


def test_json_keeps_hostile_names() -> None:
    assert json.loads(render(hostile(), "json"))["rows"][0]["defense"] == HOSTILE


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head() -> None:
    for value in (board(), hostile()):
        head = 0
        for line in render(value, "md").splitlines():
            cells = line.replace("\\\\", "").replace("\\|", "").count("|")
            head = 0 if not cells else head or cells
            assert cells == head


def test_markdown_shows_no_name_as_markup() -> None:
    text = render(hostile(), "md")
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "\\_x\\_\\`\\[red\\]" in text


def test_latex_escapes_names_in_cells_and_captions() -> None:
    text = render(hostile(), "tex")
    assert text.count("\\begin{table}") == text.count("\\end{table}") == text.count("\\toprule") == 1
    assert "\\_x\\_" in text
    assert "\\%\\$\\#\\{\\&\\}" in text
    assert "mnist\\_net" in text


def test_latex_is_ascii_where_the_names_are() -> None:
    assert render(unestablished(), "tex").isascii()
    assert "$\\geq$ 0.539, not established" in render(unestablished(), "tex")


def test_the_change_against_no_defense_stands_beside_the_leakage_with_its_sign() -> None:
    noise = records(every_stance("noise"), ssim=0.4)
    text = render(leaderboard(records(seeds()) + noise), "md")
    assert "| leakage | change |" in text
    assert "| -0.329 \\[-0.3" in text
    unsettled = [replace(one, convergence={"converged": False, "steps": 9}) for one in noise]
    assert "| ≥ -0.329 |" in render(leaderboard(records(seeds()) + unsettled), "md")


def test_a_gap_is_a_dash_in_print() -> None:
    (line,) = [line for line in render(board(), "md").splitlines() if line.startswith("| " + GAP)]
    assert "dp_sgd (scope=joint)" in line


def test_print_says_where_leakage_is_only_a_lower_bound_and_csv_keeps_the_number() -> None:
    assert "≥ 0.539, not established" in render(unestablished(), "md")
    assert "≥ 0.539 lower bound" in shown(unestablished())
    (row,) = csv.DictReader(io.StringIO(render(unestablished(), "csv")))
    assert (row["leakage"], row["rank"]) == ("0.5395", "")
    assert "not_established" in row["flags"]


MANY = "rounds=10,input_lr=0.005,clone=joint,restarts=8"


def variants() -> Leaderboard:
    weak = records(seeds(attack_params="rounds=10"), ssim=0.3)
    return leaderboard(weak + records(seeds(attack_params=MANY), privacy=[claim(1.5)]))


def test_print_shortens_attacks_and_lists_their_parameters_once() -> None:
    text = render(variants(), "md")
    assert text.count("| unsplit (clone=joint) |") == 2
    assert text.count(MANY.replace(",", ", ")) == 1
    assert "- unsplit: rounds=10\n" in text


def test_files_keep_the_parameters_of_an_attack() -> None:
    (row,) = csv.DictReader(io.StringIO(render(variants(), "csv")))
    assert row["worst_attack"] == f"unsplit:{MANY}"
    assert MANY in to_csv(variants().attacks)
    assert json.loads(render(variants(), "json"))["rows"][0]["worst_attack"] == f"unsplit:{MANY}"


def test_a_tiny_delta_is_not_printed_as_zero() -> None:
    assert "| 1.500 | 1e-05 |" in render(variants(), "md")


def test_bytes_are_printed_whole() -> None:
    assert "| 9216 |" in render(variants(), "md")


def test_markdown_explains_every_flag_it_shows() -> None:
    text = render(board(), "md")
    assert all(f"- {flag}: " in text for flag in set(board().notes["flag"]))


def test_the_terminal_shows_whole_numbers_on_120_columns() -> None:
    text = shown(board())
    assert max(map(len, text.splitlines())) <= 120
    assert "0.539 [0." in text
    assert "incomplete" in text


LONG = (
    *records(seeds("clipped_gaussian_noise", "clip=5.0,sigma=0.5", attack_params=MANY), ssim=0.3),
    *records(seeds("gaussian_noise", attack_params="rounds=10"), ssim=0.3),
    *records(seeds("gaussian_noise", attack_params=MANY), ssim=0.5),
    *records(seeds("gaussian_noise", "relative=2.0", attack_params=MANY), ssim=0.4),
)


def test_the_terminal_folds_no_row_on_120_columns() -> None:
    text = shown(leaderboard(LONG))
    assert len([line for line in text.splitlines() if "unsplit (clone=joint)  3/3" in line]) == 2
    assert [line.split()[2] for line in text.splitlines() if "pool1 " in line] == [
        "clipped_gaussian_noise",
        "gaussian_noise",
        "gaussian_noise",
    ]
    assert "clipped_gaussian_noise: clip=5.0, sigma=0.5" in text


def test_a_narrow_terminal_leaves_out_columns_before_it_folds_names() -> None:
    text = shown(leaderboard(LONG), width=88)
    assert max(map(len, text.splitlines())) <= 88
    assert "gaussian_noise (relative=2.0) " in text
    assert "utility  drop" not in text
    assert "drop" in text


def test_the_terminal_says_what_every_letter_of_a_flag_stands_for() -> None:
    text = shown(leaderboard(records(seeds(n=2), flags=["odd"], convergence={"converged": False})))
    assert " Eci odd\n" in text
    assert "E not_established: The attack that leaks most, or every attack of a stance" in text
    assert "\nodd: Raised while" in text


def test_every_flag_has_a_letter_of_its_own_and_a_capital_where_it_unranks() -> None:
    assert set(LETTERS) == {flag.code for flag in FLAGS}
    assert len(set(LETTERS.values())) == len(FLAGS)
    assert all(LETTERS[flag.code].isupper() == (flag.severity == "fatal") for flag in FLAGS)


def test_the_terminal_reads_no_name_as_markup() -> None:
    text = shown(hostile(), width=200)
    assert "[red]" in text
    assert "\x1b" not in text


def test_nothing_is_shown_as_nothing() -> None:
    assert "No rows" in shown(leaderboard([]))
    assert all(render(leaderboard([]), form) is not None for form in FORMATS)


def test_the_terminal_shows_one_mark_a_cell_and_the_exit_code() -> None:
    cells = seeds()
    verdicts = compare(make_baseline(records(cells)), records(cells, ssim=0.9), plan(cells))
    console = Console(width=160, file=io.StringIO())
    console.print(to_verdicts(verdicts))
    assert isinstance(console.file, io.StringIO)
    assert "3 worse; exit code 1" in console.file.getvalue()


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="--format pdf: no such format; choose one of: md, csv, tex, json, html"):
        render(board(), "pdf")


def test_all_formats_are_written_into_a_folder(tmp_path: Path) -> None:
    paths = write(board(), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [
        "leaderboard.md",
        "leaderboard.csv",
        "leaderboard.tex",
        "leaderboard.json",
        "leaderboard.html",
        "attacks.csv",
    ]
    assert (tmp_path / "new" / "folder" / "leaderboard.csv").read_bytes().decode() == render(board(), "csv")


def test_a_folder_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the leaderboard cannot be written"):
        write(board(), tmp_path / "file")


def test_everything_per_image_survives_parquet() -> None:
    frame = images_frame(found(), plan(CELLS))
    back = pd.read_parquet(io.BytesIO(to_parquet(frame)))
    assert list(back.columns) == list(frame.columns)
    assert back["ssim_aligned"].sum() == pytest.approx(frame["ssim_aligned"].sum())


def test_opening_the_leaderboard_does_not_import_torch() -> None:
    code = (
        "import sys, benchmark.report.tables, benchmark.report.terminal, benchmark.gate;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def with_a_broken_attack() -> Leaderboard:
    broken = seeds(attack="other")
    return leaderboard([*records(seeds(), ssim=0.4), *records(broken, flags=["planted_client_failed"])])


def test_an_attack_that_fails_planted_clients_is_badged_in_every_table() -> None:
    page = render(with_a_broken_attack(), "md")
    leaders, attacks = page.split("## Attacks")
    assert "| other ! |" in leaders
    rows = [line for line in attacks.splitlines() if "| none |" in line]
    assert [("unsplit" in row, " ! |" in row) for row in rows] == [(False, True), (True, False)]
    assert "what this attack finds counts, what it misses does not" in page
    assert "other !" in render(with_a_broken_attack(), "tex")


def test_the_badge_is_data_in_the_other_formats() -> None:
    value = with_a_broken_attack()
    assert [row["worst_planted"] for row in json.loads(render(value, "json"))["rows"]] == [False]
    attacks = {row["attack"]: row["planted"] for row in csv.DictReader(io.StringIO(to_csv(value.attacks)))}
    assert (attacks["unsplit"], attacks["other"]) == ("passed", "failed: reconstruct")


def test_no_badge_is_explained_where_there_is_none() -> None:
    assert "planted clients, which hide nothing" not in render(leaderboard(records(seeds())), "md")
