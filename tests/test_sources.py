"""The published data sets, on small files in their real formats."""

import gzip
import hashlib
import pickle
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

from benchmark.cell import TargetRule
from benchmark.data import Dataset, choose_targets, load_dataset
from benchmark.errors import UserError
from tests.idx_files import idx, write_idx_files

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class WritesAFile:
    """Unpickling one leaves a file behind, as a poisoned data set would run code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("mnist-5k")


@pytest.fixture
def root(tmp_path: Path, digits: Dataset) -> Path:
    write_idx_files(tmp_path / "MNIST" / "raw", digits)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNSPLIT_BENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_victim_gets_all_training_digits_as_they_stand(root: Path, digits: Dataset) -> None:
    loaded = load_dataset("mnist", root)
    assert torch.equal(loaded.victim.images, digits.victim.images[:200])
    assert torch.equal(loaded.victim.labels, digits.victim.labels[:200])


def test_test_digits_are_cut_in_half_with_their_order_kept(root: Path, digits: Dataset) -> None:
    loaded = load_dataset("mnist", root)
    assert torch.equal(loaded.test.images, digits.test.images[:40])
    assert torch.equal(loaded.auxiliary.images, digits.test.images[40:80])


@pytest.mark.parametrize(
    ("name", "folder", "first_labels", "published"),
    [
        # The labels of the first 62 test images of either data set, and the targets that the published code takes.
        (
            "mnist",
            "MNIST",
            "72104149590690159734966540740131347271211742351244635560419578",
            [3, 2, 1, 18, 4, 8, 11, 0, 61, 7],
        ),
        (
            "fashion-mnist",
            "FashionMNIST",
            "92116146574573412480257914609388338075796137672122445822848077",
            [19, 2, 1, 13, 6, 8, 4, 9, 18, 0],
        ),
    ],
)
def test_the_first_of_each_class_are_the_published_targets(
    tmp_path: Path, digits: Dataset, name: str, folder: str, first_labels: str, published: list[int]
) -> None:
    raw = tmp_path / folder / "raw"
    write_idx_files(raw, digits)
    labels = np.array([int(label) for label in 2 * first_labels], dtype=np.uint8)
    (raw / FILES[2]).write_bytes(idx(np.zeros((len(labels), 28, 28), np.uint8)))
    (raw / FILES[3]).write_bytes(idx(labels))
    assert choose_targets(load_dataset(name, tmp_path).test, TargetRule("first_of_class")).tolist() == published


def test_ids_of_mnist_are_never_shared_between_parts(root: Path) -> None:
    loaded = load_dataset("mnist", root)
    assert torch.cat([loaded.victim.ids, loaded.test.ids, loaded.auxiliary.ids]).tolist() == list(range(280))


def test_fashion_mnist_is_read_from_its_own_folder(tmp_path: Path, digits: Dataset) -> None:
    write_idx_files(tmp_path / "FashionMNIST" / "raw", digits)
    loaded = load_dataset("fashion-mnist", tmp_path)
    assert (loaded.name, loaded.class_names[9]) == ("fashion-mnist", "Ankle boot")


def test_the_data_root_can_stand_in_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPLIT_BENCH_DATA", str(root))
    assert load_dataset("mnist").digest == load_dataset("mnist", root).digest


def test_the_data_root_given_wins_over_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPLIT_BENCH_DATA", str(root / "elsewhere"))
    assert len(load_dataset("mnist", root).victim) == 200


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_files_are_reported_with_both_ways_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"^{name}: .*--download.*--data-root DIR or the environment variable UNSPLIT_BENCH_DATA"
    ):
        load_dataset(name, tmp_path)


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(MNIST, "download", lambda self: asked.append("mnist"))
    monkeypatch.setattr(CIFAR10, "download", lambda self: asked.append("cifar10"))
    for name in ("mnist", "fashion-mnist", "cifar10"):
        with pytest.raises(UserError):
            load_dataset(name, tmp_path)
    assert asked == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without logging requests."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A web server on this machine that has the packed files of `root`, in place of torchvision's mirrors."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name in FILES:
        packed = gzip.compress((root / "MNIST" / "raw" / name).read_bytes())
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield
        server.shutdown()
        thread.join()


def test_a_download_that_was_asked_for_lands_in_the_data_root(root: Path, tmp_path: Path, mirror: None) -> None:
    fetched = load_dataset("mnist", tmp_path / "new", download=True)
    assert fetched.digest == load_dataset("mnist", root).digest
    assert load_dataset("mnist", tmp_path / "new").digest == fetched.digest


def test_without_a_data_root_a_download_lands_where_the_next_run_looks(tmp_path: Path, mirror: None) -> None:
    load_dataset("mnist", download=True)
    assert len(load_dataset("mnist").victim) == 200
    assert (tmp_path / "cache" / "unsplit-bench" / "data" / "MNIST" / "raw" / FILES[0]).is_file()


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [f"{(tmp_path / 'gone').as_uri()}/"])
    with pytest.raises(
        UserError, match=r"^mnist: the download into .* failed \(Error downloading .*\); try again, or [^\n]*$"
    ):
        load_dataset("mnist", tmp_path, download=True)


def test_a_pickle_of_an_old_torchvision_is_refused_before_torchvision_sees_it(tmp_path: Path) -> None:
    old = tmp_path / "MNIST" / "processed"
    old.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (old / name).write_bytes(pickle.dumps(WritesAFile(tmp_path / "witness")))
    with pytest.raises(UserError, match="remove that folder"):
        load_dataset("mnist", tmp_path, download=True)


@pytest.mark.parametrize("content", [b"", b"not an idx file", idx(np.zeros((80, 28, 28), np.uint8))[:-100]])
@pytest.mark.parametrize("name", [FILES[2], FILES[3]])
def test_a_broken_idx_file_is_named(root: Path, name: str, content: bytes) -> None:
    (root / "MNIST" / "raw" / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not a whole idx file"):
        load_dataset("mnist", root)


def test_images_and_labels_of_different_number_are_refused(root: Path) -> None:
    (root / "MNIST" / "raw" / FILES[3]).write_bytes(idx(np.zeros(79, np.uint8)))
    with pytest.raises(UserError, match="has 80 images but t10k-labels-idx1-ubyte has 79 labels"):
        load_dataset("mnist", root)


def test_a_label_beyond_the_classes_is_refused(root: Path) -> None:
    labels = np.arange(80, dtype=np.uint8) % 11
    (root / "MNIST" / "raw" / FILES[3]).write_bytes(idx(labels))
    with pytest.raises(UserError, match="label 10, but there are only 10 classes"):
        load_dataset("mnist", root)


def test_a_part_without_some_class_is_refused(root: Path) -> None:
    labels = np.arange(80, dtype=np.uint8) % 9
    (root / "MNIST" / "raw" / FILES[3]).write_bytes(idx(labels))
    with pytest.raises(UserError, match="auxiliary part has no sample of class '9'"):
        load_dataset("mnist", root)


# --- CIFAR-10 ---


def test_a_cifar10_batch_that_is_not_the_published_one_is_never_unpickled(tmp_path: Path) -> None:
    folder, witness = tmp_path / "cifar-10-batches-py", tmp_path / "witness"
    folder.mkdir()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(WritesAFile(witness)))
    with pytest.raises(UserError, match="its MD5 differs"):
        load_dataset("cifar10", tmp_path)
    assert not witness.exists()


def publish_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write small batches whose checksums are, for this test, the published ones; returns the test pixels."""
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> str:
        packed = pickle.dumps(content)
        (folder / name).write_bytes(packed)
        return hashlib.md5(packed).hexdigest()

    def batch(name: str) -> tuple[list[str], np.ndarray]:
        pixels = rng.integers(0, 256, (40, 3072), dtype=np.uint8)
        return [name, write(name, {"data": pixels, "labels": [number % 10 for number in range(40)]})], pixels

    monkeypatch.setattr(CIFAR10, "train_list", [batch("data_batch_1")[0], batch("data_batch_2")[0]])
    listed, pixels = batch("test_batch")
    monkeypatch.setattr(CIFAR10, "test_list", [listed])
    md5 = write("batches.meta", {"label_names": list(CIFAR_CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    return pixels.reshape(40, 3, 32, 32)


def test_the_original_cifar10_keeps_its_order_and_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = publish_batches(tmp_path / "cifar-10-batches-py", monkeypatch)
    loaded = load_dataset("cifar10", tmp_path)
    assert (len(loaded.victim), len(loaded.auxiliary), len(loaded.test)) == (80, 20, 20)
    assert torch.equal((loaded.test.images * 255).round().to(torch.uint8), torch.from_numpy(pixels[:20]))
    assert torch.cat([loaded.victim.ids, loaded.test.ids, loaded.auxiliary.ids]).tolist() == list(range(120))
    assert (loaded.class_names, loaded.note) == (CIFAR_CLASSES, "")


@pytest.fixture(scope="module")
def picture_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each picture of one colour that tells class, group and number: (class, 0 train or 255 test, number)."""
    base = tmp_path_factory.mktemp("data") / "cifar10"
    for group, count, mark_ in (("train", 12, 0), ("test", 12, 255)):
        for label, name in enumerate(CIFAR_CLASSES):
            folder = base / group / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (label * 20, mark_, number * 10)).save(folder / f"{number}.png")
    return base.parent


def colours(images: torch.Tensor) -> list[list[int]]:
    return (images[:, :, 0, 0] * 255).round().to(torch.int64).tolist()


def test_a_cifar10_folder_keeps_test_images_out_of_training_and_halves_each_class(picture_root: Path) -> None:
    loaded = load_dataset("cifar10", picture_root)
    assert {group for _, group, _ in colours(loaded.victim.images)} == {0}
    assert sorted(colours(loaded.test.images)) == [[c * 20, 255, n * 10] for c in range(10) for n in range(6)]
    assert sorted(colours(loaded.auxiliary.images)) == [[c * 20, 255, n * 10] for c in range(10) for n in range(6, 12)]
    for part in loaded.parts().values():
        assert [label * 20 for label in part.labels.tolist()] == [colour[0] for colour in colours(part.images)]


def test_targets_of_a_cifar10_folder_are_the_first_files_in_natural_order(picture_root: Path) -> None:
    loaded = load_dataset("cifar10", picture_root)
    positions = choose_targets(loaded.test, TargetRule("per_class", n=3))
    assert colours(loaded.test.images[positions]) == [[c * 20, 255, n * 10] for c in range(10) for n in range(3)]


def test_a_cifar10_folder_says_that_it_is_a_re_encoding(picture_root: Path) -> None:
    loaded = load_dataset("cifar10", picture_root)
    assert loaded.name == "cifar10"
    assert "re-encoding" in loaded.note


def test_a_cifar10_folder_whose_groups_have_different_classes_is_refused(tmp_path: Path) -> None:
    for group, name in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        folder = tmp_path / "cifar10" / group / name
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "1.png")
    with pytest.raises(UserError, match=r"different classes \(dog\)"):
        load_dataset("cifar10", tmp_path)
