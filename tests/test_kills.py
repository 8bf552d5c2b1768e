"""A small suite that is killed, run out of disk, forbidden to write and handed damaged files: nothing is lost."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_faults import ROOT, comparable, records

pytestmark = pytest.mark.slow

KILLS = 50
DONE = "30 0 30"


class Nursery:
    """Drivers that start at once; see `tests/plugins/nursery.py`."""

    def __init__(self, pictures: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "plugins" / "nursery.py"), str(pictures)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._read() == "ready"

    def start(self, output: Path, fsize: int | None = None, uid: int | None = None) -> int:
        """Fork a driver; returns its process id, which is that of its group, too."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"output": str(output), "fsize": fsize, "uid": uid}) + "\n")
        self._process.stdin.flush()
        group = int(self._read())
        # A signal to group 0 or 1 would end whoever tests.
        assert group > 1
        return group

    def end(self) -> int:
        """Wait for the driver that was started; returns its exit code, or the negative number of a signal."""
        return os.waitstatus_to_exitcode(int(self._read()))

    def run(self, output: Path, fsize: int | None = None, uid: int | None = None) -> tuple[int, str]:
        """Exit code of a driver, and what it said."""
        self.start(output, fsize, uid)
        return self.end(), output.with_suffix(".said").read_text().strip()

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    pictures = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (pictures / name).mkdir()
        for number in range(10):
            noise = draws.integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(noise).save(pictures / name / f"{number}.png")
    made = Nursery(pictures)
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert nursery.run(output) == (0, DONE)
    return output


def assert_as_undisturbed(output: Path, undisturbed: Path) -> None:
    assert comparable(records(output)) == comparable(records(undisturbed))


def test_a_suite_killed_fifty_times_ends_with_the_records_of_an_undisturbed_one(
    nursery: Nursery, undisturbed: Path, tmp_path: Path
) -> None:
    draws = random.Random(0)
    killed, finished, kept = 0, 0, 0
    while killed < KILLS:
        # A suite that gets to its end between two kills has passed; the next kills meet a new one.
        output = tmp_path / f"suite-{finished}"
        group = nursery.start(output)
        time.sleep(draws.uniform(0.02, 1.2))
        # On a fast machine it may have come to its end, which is told below.
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        if nursery.end() == -signal.SIGKILL:
            killed += 1
            there = len(records(output)) if (output / "store.sqlite").exists() else 0
            assert there >= kept, "a record was lost"
            kept = there
        else:
            assert_as_undisturbed(output, undisturbed)
            finished, kept = finished + 1, 0
    assert nursery.run(output) == (0, DONE)
    assert_as_undisturbed(output, undisturbed)


def test_control_c_ends_in_a_sentence_with_what_is_done(nursery: Nursery, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    group = nursery.start(output)
    while not (output / "store.sqlite").exists() or not records(output):
        time.sleep(0.02)
    os.killpg(group, signal.SIGINT)
    assert nursery.end() == 2
    said = output.with_suffix(".said").read_text()
    there = len(records(output))
    assert said.startswith(f"interrupted: {there} of 30 cells are kept in ")
    assert "Traceback" not in said
    assert nursery.run(output) == (0, DONE)
    assert_as_undisturbed(output, undisturbed)


def test_a_full_disk_ends_in_a_sentence_and_the_next_run_makes_up_for_it(
    nursery: Nursery, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    # No file of weights fits; the store does, until it holds the failures of some cells.
    code, said = nursery.run(output, fsize=150_000)
    assert code == 2
    assert said.startswith(f"store {output / 'store.sqlite'}: ")
    assert "what is stored is kept" in said
    assert "\n" not in said
    there = records(output)
    assert there
    assert {record.status for record in there} == {"failed"}
    assert all("cannot write" in str(record.reason) for record in there)
    assert all("File too large" in str(record.reason) for record in there)
    assert [path for path in (output / "victims").iterdir() if path.suffix == ".tmp"] == []
    assert nursery.run(output) == (0, DONE)
    assert_as_undisturbed(output, undisturbed)


def test_a_store_that_cannot_grow_is_one_sentence_and_keeps_what_it_has(
    nursery: Nursery, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(undisturbed / "victims", output / "victims")
    code, said = nursery.run(output, fsize=100_000)
    assert code == 2
    assert said.startswith(f"store {output / 'store.sqlite'}: ")
    assert "what is stored is kept" in said
    assert "\n" not in said
    assert 0 < len(records(output)) < 30
    assert nursery.run(output) == (0, DONE)
    assert_as_undisturbed(output, undisturbed)


def torn(content: bytes, mark: Path) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes, mark: Path) -> bytes:
    changed = bytearray(content)
    draws = random.Random(len(content))
    changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)


class Bomb:
    """What would make the folder `mark` if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def pickled(content: bytes, mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Bomb(mark), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [torn, flipped, pickled])
def test_damaged_weights_and_observations_are_made_again_and_never_used(
    damage: Callable[[bytes, Path], bytes], nursery: Nursery, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(undisturbed / "victims", output / "victims")
    files = sorted((output / "victims").glob("*.safetensors"))
    assert len(files) == 5
    whole = {file: file.read_bytes() for file in files}
    for file in files:
        file.write_bytes(damage(whole[file], tmp_path / "exploded"))
    assert nursery.run(output) == (0, DONE)
    assert_as_undisturbed(output, undisturbed)
    assert not (tmp_path / "exploded").exists()
    # What the server saw holds no times: it is made again to the byte.
    seen = [file for file in files if file.name.endswith(".seen.safetensors")]
    assert seen
    assert all(file.read_bytes() == whole[file] for file in seen)


def test_a_flipped_bit_in_the_store_is_a_sentence_or_changes_nothing(
    nursery: Nursery, undisturbed: Path, tmp_path: Path
) -> None:
    draws = random.Random(1)
    content = (undisturbed / "store.sqlite").read_bytes()
    told = 0
    for number in range(12):
        output = tmp_path / f"out-{number}"
        output.mkdir()
        shutil.copytree(undisturbed / "victims", output / "victims")
        damaged = bytearray(content)
        damaged[draws.randrange(len(damaged))] ^= 1 << draws.randrange(8)
        (output / "store.sqlite").write_bytes(damaged)
        code, said = nursery.run(output)
        if code == 0:
            assert said == DONE
            assert_as_undisturbed(output, undisturbed)
        else:
            told += 1
            assert code == 2
            assert said.startswith(f"store {output / 'store.sqlite'} is damaged (")
            assert "Traceback" not in said
            assert (output / "store.sqlite").read_bytes() == damaged
    assert told > 0


def test_a_folder_that_may_only_be_read_is_one_sentence(nursery: Nursery) -> None:
    # Modes do not bind root: there the driver becomes the user 65534, who owns nothing.
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        output.mkdir()
        output.chmod(0o555)
        Path(folder).chmod(0o755)
        code, said = nursery.run(output, uid=65534 if os.geteuid() == 0 else None)
        assert list(output.iterdir()) == []
    assert code == 2
    assert said.startswith(f"store {output / 'store.sqlite'}: ")
    assert "make its folder writable or choose another one with --output" in said
    assert "\n" not in said
