"""A worker process as its parent sees it: start, talk, watch, kill."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import benchmark.executors
from benchmark.errors import UserError
from benchmark.executors.allocator import allocator_settings

_CHUNK = 1 << 20
_LOG_TAIL = 8_000
_SHOW_SECONDS = 0.5


class Worker:
    """A persistent child process that carries out groups.

    It has a process group of its own, so that killing it takes along what its plug-ins started.

    Args:
        log: File its output is appended to.
        threads: Threads it computes with.
        cwd: Its working directory; None for this process's.

    Attributes:
        events: File descriptor to wait at for events.
        closed: Whether the last event has been read: it has died, or a plug-in closed its pipe.

    Raises:
        UserError: The log cannot be written.
    """

    def __init__(self, log: Path, threads: int = 1, cwd: Path | None = None) -> None:
        self.log = log
        tasks, self._tasks = os.pipe()
        self.events, events = os.pipe()
        os.set_blocking(self.events, False)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                self._log_start = output.tell()
                self._process = subprocess.Popen(
                    # -P: a folder the user happens to stand in may hold an `attacks` of its own.
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "benchmark.executors.worker",
                        str(tasks),
                        str(events),
                        str(os.getpid()),
                        str(threads),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(tasks, events),
                    start_new_session=True,
                    env=environment_of(threads),
                    cwd=cwd,
                )
        except OSError as error:
            os.close(self._tasks)
            os.close(self.events)
            raise UserError(f"cannot start a worker with its log {log}: {error}; choose another --output") from None
        finally:
            os.close(tasks)
            os.close(events)
        self._unread = b""
        self.closed = False

    def send(self, task: dict[str, Any]) -> None:
        """Hand a task to a worker that is ready for one; if it has died meanwhile, `dead` tells."""
        left = memoryview((json.dumps(task, allow_nan=False) + "\n").encode())
        with suppress(BrokenPipeError):
            while left:
                left = left[os.write(self._tasks, left) :]

    def receive(self) -> list[dict[str, Any]]:
        """Events since the last call, oldest first.

        Raises:
            ValueError: Something else was written into the pipe.
        """
        while True:
            try:
                chunk = os.read(self.events, _CHUNK)
            except BlockingIOError:
                break
            if not chunk:
                self.closed = True
                break
            self._unread += chunk
        *lines, self._unread = self._unread.split(b"\n")
        events = [json.loads(line) for line in lines]
        if not all(isinstance(event, dict) and "event" in event for event in events):
            raise ValueError("not an event")
        return events

    @property
    def process_group(self) -> int:
        """Id of the process group of the process and of what it has started."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether the process has ended; its last events may still be unread."""
        return self._process.poll() is not None

    def stop(self) -> str:
        """Kill it and what it started; returns how it had ended, for a reason, if it had."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0 if self.closed else 0.0)
        code = self._process.poll()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._tasks)
        os.close(self.events)
        if code is None:
            return "closed the pipe it reports through"
        if code >= 0:
            return f"exited with code {code}"
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"died with signal {-code} ({signal.strsignal(-code)}){memory}"

    def show_where(self) -> None:
        """Have it write its threads' tracebacks to its log."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(_SHOW_SECONDS)

    def mark_log(self) -> None:
        """Have `said` start here."""
        self._log_start = self.log.stat().st_size

    def said(self) -> str | None:
        """The end of what it wrote to its log since `mark_log`, or None."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _LOG_TAIL))
            return file.read().decode(errors="replace").strip() or None


def environment_of(threads: int) -> dict[str, str]:
    """Environment variables of a child process that imports what this one does and computes with `threads` threads."""
    root = str(Path(benchmark.executors.__path__[0]).resolve().parents[1])
    path = [entry for entry in [os.environ.get("PYTHONPATH")] if entry]
    # The parent's own packages first, where they come from PYTHONPATH or an editable install. Installed ones are
    # found anyway, and site-packages in front of the standard library could hide a part of that.
    if root not in [*site.getsitepackages(), site.getusersitepackages()]:
        path.insert(0, root)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        # Chosen on purpose: threads that share a busy core run many times slower than one.
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        **allocator_settings(),
    }
