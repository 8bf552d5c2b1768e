"""The commands, from what is typed to what is printed and written; the same `main` as the console script's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmark.cli import main
from benchmark.digest import HARNESS
from benchmark.store import Store

SUITE = """\
name: tiny
description: Two victims under one short attack.
dataset: mnist-5k
model: mnist_net
seeds: [0]
training: {epochs: 1, batch_size: 256}
group_size: 4
blocks:
  - name: inputs
    cuts: [pool2]
    defenses: [none, "gaussian_noise:sigma=0.5"]
    attacks: ["unsplit:clone=joint,rounds=1,input_steps=2,model_steps=2"]
"""

DEFENSE = '''
from typing import ClassVar
from pydantic import Field
from defenses.base import Defense

class Halved(Defense):
    """Halves what is sent at inference. Own work."""
    name: ClassVar[str] = "halved"
    side: ClassVar[str] = "activations"
    by: float = Field(2.0, gt=0, description="divisor")

    def protect_activations(self, z, rng, phase):
        return z / self.by
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the little suite has been run once."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(SUITE)
    (folder / "mine.py").write_text(DEFENSE)
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert called("run", "tiny.yaml", "--executor", "inline") == 0
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_a_run_leaves_tables_records_and_victims(there: Path) -> None:
    out = there / "unsplit-bench-out"
    tables = {
        "leaderboard.md",
        "leaderboard.csv",
        "leaderboard.tex",
        "leaderboard.json",
        "leaderboard.html",
        "attacks.csv",
    }
    assert {path.name for path in (out / "tiny").iterdir()} >= tables
    assert (out / "store.sqlite").is_file()
    assert list((out / "victims").glob("*.safetensors"))


def test_a_second_run_finds_everything_done(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("run", "tiny.yaml", "--executor", "inline") == 0
    said = capsys.readouterr()
    assert "2 of 2 cells done, 2 of them known before" in said.err
    assert "gaussian_noise" in said.out


@pytest.mark.parametrize("command", ["run", "leaderboard"])
def test_what_is_complete_is_answered_without_torch(command: str, there: Path) -> None:
    code = (
        "import sys\nfrom benchmark.cli import main\n"
        f"try: main([{command!r}, 'tiny.yaml'])\nexcept SystemExit as ended: print('ENDED', ended.code or 0)\n"
        "print('HEAVY', sorted({'torch', 'torchvision', 'opacus', 'skimage', 'scipy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(HARNESS)}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=there, env=environment
    )
    assert ran.stdout.endswith("ENDED 0\nHEAVY []\n")


def test_a_defense_of_the_users_own_joins_without_rerunning_the_others(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called("run", "tiny.yaml", "--executor", "inline", "--defense", "./mine.py:Halved:by=3") == 0
    said = capsys.readouterr()
    assert "3 of 3 cells done, 2 of them known before" in said.err
    assert "halved" in said.out
    assert called("leaderboard", "tiny.yaml", "--format", "csv") == 0
    assert "halved" in capsys.readouterr().out


def test_of_an_edited_defense_the_last_code_that_ran_is_shown(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = there / "edited.py"
    for factor in ("0.5", "0.25"):
        file.write_text(
            (there / "mine.py").read_text().replace("halved", "edited").replace("z / self.by", f"z * {factor}")
        )
        assert called("run", "tiny.yaml", "--executor", "inline", "--defense", "./edited.py:Halved:by=3") == 0
    capsys.readouterr()
    assert called("leaderboard", "tiny.yaml", "--format", "csv") == 0
    assert capsys.readouterr().out.count(",inputs,edited,") == 1


@pytest.mark.parametrize("form", ["md", "csv", "tex", "json"])
def test_the_leaderboard_is_the_same_to_the_byte(form: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        assert called("leaderboard", "tiny.yaml", "--format", form) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "gaussian" in texts[0]


def test_the_leaderboard_goes_to_a_folder(there: Path, tmp_path: Path) -> None:
    assert called("leaderboard", "tiny.yaml", "-o", str(tmp_path / "tables")) == 0
    assert (tmp_path / "tables" / "leaderboard.csv").is_file()


def test_the_table_of_attacks_stands_beside(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("leaderboard", "tiny.yaml", "--attacks", "--format", "csv") == 0
    assert "unsplit" in capsys.readouterr().out


def test_records_have_a_row_an_image(there: Path, tmp_path: Path) -> None:
    for form in ("csv", "parquet"):
        assert called("records", "tiny.yaml", "--format", form, "-o", str(tmp_path / f"r.{form}")) == 0
    frame = pd.read_csv(tmp_path / "r.csv")
    assert (frame["defense"] == "none").sum() == 10
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == len(frame)


def test_export_writes_records_with_their_manifest(there: Path, tmp_path: Path) -> None:
    assert called("export", "tiny.yaml", "-o", str(tmp_path / "released")) == 0
    manifest = json.loads((tmp_path / "released" / "manifest.json").read_text())
    assert manifest["records"] == {"done": 2}
    assert (tmp_path / "released" / "records.parquet").is_file()


def test_a_baseline_passes_the_run_it_was_made_from(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.json"
    assert called("baseline", "tiny.yaml", "-o", str(file), "--no-measure") == 0
    assert called("check", "tiny.yaml", "--baseline", str(file)) == 0
    known = json.loads(file.read_text())
    for cell in known["cells"].values():
        cell["scores"] = {name: value + 1 if name == "utility" else value for name, value in cell["scores"].items()}
    file.write_text(json.dumps(known))
    assert called("check", "tiny.yaml", "--baseline", str(file)) == 1
    assert "worse" in capsys.readouterr().out


def test_reading_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SUITE)
    assert called("leaderboard", "tiny.yaml") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_cell_that_cannot_be_measured_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SUITE)
    (tmp_path / "mine.py").write_text(DEFENSE.replace("return z / self.by", "raise ValueError('no')"))
    assert called("run", "tiny.yaml", "--executor", "inline", "--defense", "mine.py:Halved") == 2
    said = capsys.readouterr().err
    assert "2 of 3 cells done" in said
    assert re.search(r"halved at pool2, seed 0, unsplit: .*no", said)
    # Another defense's run tells of its own failures, not of those before.
    assert called("run", "tiny.yaml", "--executor", "inline", "--defense", "mine.py:Halved:by=3") == 2
    assert capsys.readouterr().err.count("halved at pool2, seed 0, unsplit: ") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "smoke-v0"], "there is no suite 'smoke-v0'"),
        (["run", "nowhere.yaml"], "there is no such file"),
        (["run", "tiny.yaml", "--defense", "gausian_noise"], "did you mean 'gaussian_noise'?"),
        (["run", "tiny.yaml", "--defense", "gaussian_noise:sigma=-1"], "sigma=-1"),
        (["run", "tiny.yaml", "--attack", "./nowhere.py:X"], "there is no file"),
        (["run", "tiny.yaml", "--output", "tiny.yaml"], "tiny.yaml"),
        (["leaderboard", "tiny.yaml", "--format", "pdf"], "--format pdf: no such format"),
        (["records", "tiny.yaml", "--format", "parquet"], "name a file with -o"),
        (["export", "tiny.yaml", "--output", "elsewhere"], "there are no records in elsewhere"),
        (["check", "tiny.yaml", "--baseline", "nowhere.json"], "nowhere.json: the baseline cannot be read"),
        (["show", "unsplitt"], "did you mean 'unsplit'?"),
        (["new", "defense", "mine.py"], "exists already"),
        (["verify", "nun"], "there is no attack or defense 'nun'"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(*arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert said.count("\n") == 1


def test_what_is_ours_to_fix_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.commands.listing.list_names", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list", "suites"])


@pytest.mark.parametrize(
    ("what", "name"),
    [("suites", ""), ("attacks", "unsplit"), ("defenses", "none"), ("datasets", "mnist-5k"), ("models", "mnist_net")],
)
def test_everything_can_be_listed(what: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("list", what) == 0
    assert name in capsys.readouterr().out


def test_list_check_imports_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("list", "defenses", "--check") == 0
    assert "broken" not in capsys.readouterr().out.lower()


def test_a_plugin_that_cannot_be_imported_is_listed_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = tmp_path / "acme-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[unsplit_bench.defenses]\nbad = acme_broken_module:Bad\n")
    (tmp_path / "acme_broken_module.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert called("list", "defenses", "--check") == 2
    said = capsys.readouterr().out
    assert "bad (entry point acme) is broken" in said
    assert "No module named 'nothing_of_that_name'" in said
    assert "gaussian_noise" in said


def test_show_gives_parameters_threat_model_and_citation(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("show", "unsplit") == 0
    said = capsys.readouterr().out
    for words in ("2108.09033", "threat model: architecture", "restarts: int, >= 1", "default 1", "clone: "):
        assert words in said


def test_show_reads_a_file_of_the_users_own(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("show", "./mine.py:Halved:by=3") == 0
    said = capsys.readouterr().out
    assert "as asked for: by=3.0" in said
    assert "protects: activations" in said
    assert "by: float, > 0, default 2.0" in said


def test_env_names_versions_device_and_data_root(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("env") == 0
    said = capsys.readouterr().out
    assert re.search(r"torch +\d", said)
    assert "data root" in said


def test_new_and_verify_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called("new", "defense", "mine.py") == 0
    assert called("verify", "./mine.py:Mine") == 0
    assert "keeps the contract" in capsys.readouterr().out


def test_verify_ends_with_1_and_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(DEFENSE.replace("Own work.", ""))
    assert called("verify", "./mine.py:Halved") == 1
    assert "the docstring cites nothing" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "defenses"], ["list", "suites"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    # Typer imports parts of pydantic itself.
    code = (
        "import sys\nfrom benchmark.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'yaml', 'scipy') if m in sys.modules]\n"
        "print('HEAVY', heavy)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HARNESS)
    assert ran.stdout.rstrip().endswith("HEAVY []")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "from benchmark.cli import main; main(['list', 'defenses'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HARNESS
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_fresh_check_takes_no_released_record_for_a_cell_that_fails(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        (there / "mine.py")
        .read_text()
        .replace("halved", "breakable")
        .replace("return z", "1 // (not BROKEN); return z")
    )
    (there / "breakable.py").write_text("import os\n" + code + "\nBROKEN = 'BREAK_IT' in os.environ\n")
    mine = ("tiny.yaml", "--defense", "./breakable.py:Halved:by=3")
    assert called("run", *mine, "--output", "good") == 0
    assert called("baseline", *mine, "--no-measure", "-o", "b.json", "--output", "good") == 0
    with Store(there / "good" / "store.sqlite") as store:
        released = {record.key: record for record in store.records("tiny")}
    monkeypatch.setattr("benchmark.run.read_released", lambda suite, root=None: released)
    monkeypatch.setenv("BREAK_IT", "1")
    assert called("check", *mine, "--baseline", "b.json", "--output", "taken") == 0
    assert called("check", *mine, "--baseline", "b.json", "--output", "measured", "--fresh") == 2
