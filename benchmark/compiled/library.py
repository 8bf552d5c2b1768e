"""Compiles the C code of this folder for the processor that it runs on, once for a user, and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.locations import cache_home

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = "compiled"
SWITCH = "UNSPLIT_BENCH_COMPILE"
_COMPILERS = ("cc", "gcc", "clang")
# The processor's own instructions: what is compiled is for this kind of processor only, and is kept under its name.
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fPIC", "-shared")
_MOST_SECONDS = 300


@dataclass(frozen=True)
class Library:
    """The code, or the reason why it is not there.

    Attributes:
        code: Loaded, with no types declared; None where it could not be had.
        state: In a few words, for whoever asks: what compiled it, or what is in the way.
    """

    code: ctypes.CDLL | None
    state: str


@cache
def library() -> Library:
    """The compiled code of this folder; compiling takes some five seconds, and is done again when anything has changed.

    Never raises: no compiler, one that fails and a cache folder that cannot be written are states like others. The
    compiler is `CC`, or the first of cc, gcc and clang; UNSPLIT_BENCH_COMPILE=0 says that none is to be used.
    """
    if os.environ.get(SWITCH) == "0":
        return Library(None, f"{SWITCH} is 0")
    try:
        command = _compiler()
        if command is None:
            return Library(None, "there is no C compiler (CC, cc, gcc or clang)")
        with _alone():
            file = _kept(command) or _made(command)
        return Library(ctypes.CDLL(str(file)), f"compiled by {command[0]}")
    except subprocess.CalledProcessError as error:
        return Library(None, f"{error.cmd[0]} failed: {_first_line(error.stderr)}")
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        # Also: quotes in CC that do not end, a user without a home.
        return Library(None, _first_line(str(error)))


def sources() -> list[Path]:
    """The C files of this folder, headers too, by name."""
    return sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in (".c", ".h"))


def _compiler() -> list[str] | None:
    command = shlex.split(os.environ.get("CC", ""))
    for name in [command[0]] if command else _COMPILERS:
        found = shutil.which(name)
        if found:
            return [found, *command[1:]]
    return None


@contextmanager
def _alone() -> Iterator[None]:
    """Other processes wait here: on few cores, each that compiles the same at once delays all others."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept(command: list[str]) -> Path | None:
    key = _key(command)
    for file in _folder().glob(f"{key}-*.so"):
        # One that was removed or cannot be read is as good as none.
        with suppress(OSError):
            if file == _place(key, file.read_bytes()):
                return file
            # Nothing is written under its name before it is whole: this one was damaged since.
            file.unlink()
    return None


def _made(command: list[str]) -> Path:
    with tempfile.TemporaryDirectory(dir=_folder(), prefix="making-") as folder:
        made = Path(folder) / "made.so"
        files = [str(file) for file in sources() if file.suffix == ".c"]
        subprocess.run(
            [*command, *_FLAGS, *files, "-o", str(made)],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
        )
        # Where processes cannot wait for each other, the last one to be done replaces equal by equal.
        return made.replace(_place(_key(command), made.read_bytes()))


def _folder() -> Path:
    return cache_home() / FOLDER


def _place(key: str, content: bytes) -> Path:
    return _folder() / f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _key(command: list[str]) -> str:
    # Asked, because a command may only stand for another one.
    version = subprocess.run(
        [*command, "--version"], check=True, capture_output=True, text=True, errors="replace"
    ).stdout
    sha = hashlib.sha256(repr((command, version, _FLAGS, _processor())).encode())
    for file in sources():
        sha.update(f"\n{file.name}\n".encode() + file.read_bytes())
    return sha.hexdigest()[:32]


def _processor() -> str:
    facts = [platform.machine(), platform.processor()]
    # A home folder may be shared by machines whose processors differ, and what is unknown to one ends its process.
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        facts += sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU "))})
    return "\n".join(facts)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")
