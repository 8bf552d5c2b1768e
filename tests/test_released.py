from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.errors import UserError
from benchmark.record import SCHEMA, Axes, Record
from benchmark.released import MANIFEST, RECORDS, read_released, write_released

AXES = Axes(
    dataset="mnist-5k",
    model="mnist_net",
    topology="u_shaped",
    cut="pool1",
    cut_reached="pool2",
    tail=None,
    victim="trained",
    defense="deeper_split",
    params="by=1",
    side="architecture",
    seed=1,
    attack="unsplit",
    attack_params="clone=joint",
    attack_seed=0,
    goals=["reconstruct", "steal"],
    role="attack",
    stance="oblivious",
    phase="inference",
    views=1,
    threat_model="architecture",
    targets="first_of_class",
)


def record(key: str, **changes: Any) -> Record:
    made = Record(
        key=key,
        suite="smoke-v1",
        suite_digest="d1",
        axes=AXES,
        status="done",
        per_image={"ssim_aligned": [0.1, 1 / 3]},
        run={"environment": {"torch": "2.14.1", "commit": "abc-dirty"}},
    )
    return replace(made, **changes)


def released(tmp_path: Path, *records: Record) -> Path:
    write_released(records or [record("a"), record("b")], tmp_path / "smoke-v1")
    return tmp_path


def test_records_come_back_equal_by_key(tmp_path: Path) -> None:
    assert read_released("smoke-v1", released(tmp_path)) == {"a": record("a"), "b": record("b")}


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_released([record("a"), record("b")], one)
    write_released([record("b"), record("a")], other)
    assert (one / RECORDS).read_bytes() == (other / RECORDS).read_bytes()
    assert (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()


def test_anyone_can_read_the_axes_with_pandas(tmp_path: Path) -> None:
    frame = pd.read_parquet(released(tmp_path) / "smoke-v1" / RECORDS)
    assert list(frame.columns[:5]) == ["key", "suite", "suite_digest", "status", "dataset"]
    assert frame.loc[0, ["cut_reached", "seed"]].tolist() == ["pool2", 1]
    assert list(frame.loc[0, "goals"]) == ["reconstruct", "steal"]


def test_the_manifest_says_what_and_by_what(tmp_path: Path) -> None:
    folder = released(tmp_path, record("a"), record("b", status="failed", reason="raised E: no")) / "smoke-v1"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["suite"] == "smoke-v1"
    assert manifest["suite_digest"] == "d1"
    assert manifest["records"] == {"done": 1, "failed": 1}
    assert manifest["measured_by"] == [{"torch": "2.14.1", "commit": "abc-dirty"}]
    assert manifest["made_by"]["torch"]


def test_folders_of_the_machine_stay_out_of_what_is_published(tmp_path: Path) -> None:
    trace = 'Traceback:\n  File "/home/ann/plug ins/attacks/mine.py", line 3\n  File "/opt/x/torch/nn.py", line 9'
    failed = record("a", status="failed", reason="raised OSError: /home/ann/key.txt: 1/2 of a/b", traceback=trace)
    kept = read_released("smoke-v1", released(tmp_path, failed))["a"]
    assert kept.reason == "raised OSError: key.txt: 1/2 of a/b"
    assert kept.traceback is not None
    assert "/home" not in kept.traceback
    assert "/opt" not in kept.traceback
    assert "nn.py" in kept.traceback


def test_a_suite_without_released_records_has_none(tmp_path: Path) -> None:
    assert read_released("core-v9", tmp_path) == {}


@pytest.mark.parametrize("suite", ["..", ".", "", "../smoke-v1", "/etc", "a/b"])
def test_a_name_that_is_no_folder_of_results_finds_nothing(tmp_path: Path, suite: str) -> None:
    write_released([record("a")], tmp_path)
    released(tmp_path)
    assert read_released(suite, tmp_path / "smoke-v1") == {}


def test_without_a_root_the_package_is_read() -> None:
    folder = resources.files("results")
    released_suites = [entry.name for entry in folder.iterdir() if (entry / RECORDS).is_file()]
    for suite in released_suites:
        assert {r.suite for r in read_released(suite).values()} == {suite}
    assert read_released("a-suite-that-nobody-released") == {}


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: b"", lambda b: b[:99] + b"x" + b[100:]])
def test_a_damaged_file_is_one_sentence_with_a_remedy(tmp_path: Path, damage: Any) -> None:
    file = released(tmp_path) / "smoke-v1" / RECORDS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"records\.parquet cannot be read .* install unsplit-bench again"):
        read_released("smoke-v1", tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{"])
def test_a_broken_manifest_is_one_sentence_with_a_remedy(tmp_path: Path, text: str) -> None:
    (released(tmp_path) / "smoke-v1" / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"cannot be read .* install unsplit-bench again"):
        read_released("smoke-v1", tmp_path)


def test_records_of_a_newer_program_ask_for_an_upgrade(tmp_path: Path) -> None:
    file = released(tmp_path) / "smoke-v1" / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": SCHEMA + 1}))
    with pytest.raises(UserError, match=rf"have schema {SCHEMA + 1}, .* upgrade unsplit-bench"):
        read_released("smoke-v1", tmp_path)


def test_records_of_different_digests_are_never_released_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exactly one suite are needed, found: smoke-v1 \(d1\), smoke-v1 \(d2\)"):
        write_released([record("a"), record("b", suite_digest="d2")], tmp_path)


def test_nothing_to_release_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found: none"):
        write_released([], tmp_path)
