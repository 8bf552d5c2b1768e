from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.record import Axes, Record
from benchmark.store import SCHEMA_VERSION, Store, record_text

AXES = Axes(
    dataset="mnist-5k",
    model="mnist_net",
    topology="vanilla",
    cut="pool1",
    cut_reached="pool1",
    tail=None,
    victim="trained",
    defense="gaussian_noise",
    params="sigma=0.5",
    side="activations",
    seed=0,
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


def record(key: str = "a", **changes: Any) -> Record:
    made = Record(
        key=key,
        suite="smoke-v1",
        suite_digest="d1",
        axes=AXES,
        status="done",
        per_image={"ssim_aligned": [0.5, 0.25]},
        scalars={"steal_accuracy": 0.125},
    )
    return replace(made, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "store.sqlite"


def test_a_record_comes_back_equal_from_a_reopened_store(path: Path) -> None:
    with Store(path) as store:
        store.put(record())
    with Store(path) as store:
        assert store.get(["a", "absent"]) == {"a": record()}


def test_records_are_filed_by_suite_and_digest_and_sorted_by_key(path: Path) -> None:
    with Store(path) as store:
        store.put_all([record("b"), record("a"), record("c", suite="core-v1"), record("d", suite_digest="d2")])
        assert [r.key for r in store.records("smoke-v1")] == ["a", "b", "d"]
        assert [r.key for r in store.records("smoke-v1", "d1")] == ["a", "b"]


def test_a_record_written_twice_is_there_once(path: Path) -> None:
    with Store(path) as store:
        store.put(record())
        store.put(record())
        assert len(store.records("smoke-v1")) == 1


def test_a_failure_never_replaces_what_is_done(path: Path) -> None:
    with Store(path) as store:
        store.put(record())
        store.put(record(status="failed", reason="raised ValueError: no"))
        assert store.get(["a"]) == {"a": record()}


def test_done_replaces_a_failure(path: Path) -> None:
    with Store(path) as store:
        store.put(record(status="failed", reason="exceeded its time limit"))
        store.put(record())
        assert store.get(["a"])["a"].status == "done"
        assert store.failed("smoke-v1") == []


def test_what_is_done_stays_when_it_is_computed_again(path: Path) -> None:
    with Store(path) as store:
        store.put(record())
        store.put(record(scalars={"steal_accuracy": 0.75}))
        assert store.get(["a"])["a"].scalars == {"steal_accuracy": 0.125}


def test_a_later_failure_replaces_an_earlier_one(path: Path) -> None:
    with Store(path) as store:
        for reason in ("first", "second"):
            store.put(record(status="failed", reason=reason))
        assert [r.reason for r in store.failed("smoke-v1")] == ["second"]


def test_a_cell_of_two_suites_is_found_done_where_one_of_them_has_it(path: Path) -> None:
    with Store(path) as store:
        store.put(record())
        store.put(record(suite="mine", suite_digest="d2", status="failed", reason="no"))
        assert store.get(["a"])["a"].status == "done"
        assert store.get(["a"], suite_digest="d2")["a"].status == "failed"


def test_thousands_of_keys_are_found_in_the_order_asked(path: Path) -> None:
    keys = [f"{number:04d}" for number in range(2000)]
    with Store(path) as store:
        store.put_all(record(key) for key in keys)
        assert list(store.get(reversed(keys))) == keys[::-1]


def test_several_records_are_kept_all_or_none(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(UserError):
            store.put_all([record("a"), record("b", scalars={"steal_accuracy": float("nan")})])
        assert store.records("smoke-v1") == []


def test_where_a_record_comes_from_is_kept(path: Path) -> None:
    with Store(path) as store:
        store.put(record("a"))
        store.put(record("b"), origin="released smoke-v1")
        assert store.origins(["a", "b", "c"], "d1") == {"a": "run", "b": "released smoke-v1"}


def test_nan_is_refused_with_the_name_of_the_attack() -> None:
    with pytest.raises(UserError, match=r"attack unsplit on defense gaussian_noise: .* NaN or infinity"):
        record_text(record(scalars={"steal_accuracy": float("inf")}))


def test_equal_records_have_equal_texts() -> None:
    one, other = {"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}
    assert record_text(record(scalars=one)) == record_text(record(scalars=other))


def test_a_file_that_is_no_database_is_named_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are my notes" * 100)
    with pytest.raises(UserError, match=r"store .*store\.sqlite is damaged .* move it and its -wal file away"):
        Store(path)
    assert path.read_bytes() == b"these are my notes" * 100


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_store_is_named_and_left_as_it_is(path: Path, kept: float) -> None:
    with Store(path) as store:
        store.put_all(record(f"{number:03d}") for number in range(100))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"store .*store\.sqlite is damaged"), Store(path) as store:
        store.records("smoke-v1")
    assert path.read_bytes() == content[: int(len(content) * kept)]


def test_a_changed_number_in_the_file_is_noticed(path: Path) -> None:
    with Store(path) as store:
        store.put(record())
    content = path.read_bytes()
    assert content.count(b'"steal_accuracy":0.125') == 1
    path.write_bytes(content.replace(b'"steal_accuracy":0.125', b'"steal_accuracy":0.025'))
    with pytest.raises(UserError, match=r"is damaged \(1 records do not match their checksums\)"):
        Store(path)


def test_a_flipped_bit_is_an_error_or_changes_nothing(path: Path) -> None:
    with Store(path) as store:
        store.put_all(record(f"{number:02d}") for number in range(20))
        expected = store.records("smoke-v1")
    content = path.read_bytes()
    draws = random.Random(0)
    changed = []
    for _ in range(400):
        damaged = bytearray(content)
        position, bit = draws.randrange(len(content)), draws.randrange(8)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            with Store(path) as store:
                if store.records("smoke-v1") != expected:
                    changed.append((position, bit))
        except UserError:
            continue
    assert changed == []


def test_a_store_of_a_newer_program_is_refused(path: Path) -> None:
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(UserError, match=rf"has schema {SCHEMA_VERSION + 1}, .* upgrade unsplit-bench"):
        Store(path)


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE diary (entry TEXT)")
    connection.close()
    with pytest.raises(UserError, match="is a database of something else"):
        Store(path)


def test_a_folder_in_the_place_of_the_store_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unable to open database file; make its folder writable"):
        Store(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="choose another folder with --output"):
        Store(tmp_path / "out" / "store.sqlite")


@pytest.mark.parametrize("there", [False, True], ids=["no store yet", "a store"])
def test_a_read_only_folder_is_one_sentence(there: bool) -> None:
    program = (
        "import os, sys; from pathlib import Path; from benchmark.store import Store\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "Store(Path(sys.argv[1]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        if there:
            Store(path).close()
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1].startswith(f"benchmark.errors.UserError: store {path}: ")
    assert "make its folder writable or choose another one with --output" in ran.stderr


_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from benchmark.record import Record
from benchmark.store import Store
import json
made = Record.from_json(json.loads(sys.argv[2]))
with Store(Path(sys.argv[1])) as store:
    for number in range(int(sys.argv[3]), int(sys.argv[4])):
        store.put(replace(made, key=f"{number:04d}"))
"""


def test_four_processes_write_one_new_store_without_loss_or_doubles(path: Path) -> None:
    ranges = [(0, 60), (30, 90), (60, 120), (0, 120)]
    text = record_text(record())
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), text, str(first), str(last)])
        for first, last in ranges
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    with Store(path) as store:
        assert [r.key for r in store.records("smoke-v1")] == [f"{number:04d}" for number in range(120)]


def test_a_writer_killed_while_writing_leaves_whole_records(path: Path) -> None:
    text = record_text(record())
    with Store(path) as store:
        arguments = [sys.executable, "-c", _WRITER, str(path), text, "0", "1000000"]
        writer = subprocess.Popen(arguments, start_new_session=True)
        while len(store.records("smoke-v1")) < 20:
            pass
        os.killpg(writer.pid, 9)
        writer.wait()
    with Store(path) as store:
        kept = store.records("smoke-v1")
    assert [r.key for r in kept] == [f"{number:04d}" for number in range(len(kept))]
