from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.models import mnist_net, network
from benchmark.seeds import Rng
from benchmark.tensors import BrokenFileError, load_tensors, save_tensors


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return network(mnist_net, (1, 28, 28), 10, Rng("test tensors")).state_dict()


@pytest.fixture
def saved(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "victims" / "victim.safetensors"
    save_tensors(path, weights, {"seconds": "1.5", "key": "abc"})
    return path


def test_weights_and_metadata_come_back_as_they_were(saved: Path, weights: dict[str, torch.Tensor]) -> None:
    tensors, metadata = load_tensors(saved)
    assert metadata == {"seconds": "1.5", "key": "abc"}
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5, dtype=torch.float64),
        torch.zeros(0, 4),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([True, False]),
        torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        torch.ones(2, requires_grad=True),
    ],
    ids=["scalar", "empty", "transposed", "bool", "bfloat16 with NaN", "with gradient"],
)
def test_every_kind_of_tensor_survives(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_tensors(tmp_path / "t", {"t": tensor}, {})
    loaded = load_tensors(tmp_path / "t")[0]["t"]
    assert loaded.dtype == tensor.dtype
    torch.testing.assert_close(loaded, tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_tied_weights_are_saved_each(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    save_tensors(tmp_path / "t", {"a": layer.weight, "b": layer.weight}, {})
    tensors, _ = load_tensors(tmp_path / "t")
    assert torch.equal(tensors["a"], tensors["b"])


def test_equal_contents_are_equal_bytes(saved: Path, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    reordered = dict(reversed(list(weights.items())))
    save_tensors(tmp_path / "other", reordered, {"key": "abc", "seconds": "1.5"})
    assert (tmp_path / "other").read_bytes() == saved.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_noticed(saved: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    damaged = saved.with_name("damaged")
    damaged.write_bytes(content)
    with pytest.raises(BrokenFileError):
        load_tensors(damaged)


def test_every_flipped_byte_of_the_header_is_noticed(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", {"weight": torch.arange(3.0)}, {"seconds": "1.5"})
    content = (tmp_path / "t").read_bytes()
    unnoticed = []
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                load_tensors(tmp_path / "damaged")
            except BrokenFileError:
                continue
            unnoticed.append((position, bit))
    assert unnoticed == []


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, 0.999])
def test_a_truncated_file_is_broken(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(BrokenFileError, match=r"victim\.safetensors .* delete it, it is made again"):
        load_tensors(saved)


def test_bytes_after_the_end_are_noticed(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(BrokenFileError):
        load_tensors(saved)


def test_a_file_of_somebody_else_is_broken(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "foreign")
    with pytest.raises(BrokenFileError):
        load_tensors(tmp_path / "foreign")


def test_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save(Bomb(), tmp_path / "pickle")
    with pytest.raises(BrokenFileError):
        load_tensors(tmp_path / "pickle")
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_is_missing_not_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none")


def test_writing_leaves_no_temporary_file(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["victim.safetensors"]


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("old")
    with pytest.raises(UserError, match=r"cannot write [^ ]*folder"):
        write_atomically(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_two_writers_and_a_reader_never_meet_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "contested"
    save_tensors(path, {"a": torch.zeros(50_000)}, {"value": "0.0"})
    enough = threading.Event()

    def write(value: float) -> None:
        while not enough.is_set():
            save_tensors(path, {"a": torch.full((50_000,), value)}, {"value": str(value)})

    seen: set[str] = set()
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, value) for value in (1.0, 2.0)]
        try:
            while not {"1.0", "2.0"} <= seen:
                tensors, metadata = load_tensors(path)
                assert set(tensors["a"].tolist()) == {float(metadata["value"])}
                seen.add(metadata["value"])
        finally:
            enough.set()
    for writer in writers:
        writer.result()


def test_a_read_only_folder_is_one_sentence() -> None:
    program = (
        "import os, sys, torch; from pathlib import Path; from benchmark.tensors import save_tensors\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "save_tensors(Path(sys.argv[1]) / 'a', {'a': torch.ones(1)}, {})"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        ran = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    assert f"UserError: cannot write {folder}/a: Permission denied; choose another folder" in ran.stderr
