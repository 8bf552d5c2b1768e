"""The results database: one SQLite file, one transaction a finished cell.

Processes may share it: each write is a transaction of its own, a record that is done is never replaced, and a cell
has one record in a suite however often it is written.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmark.cell import canonical_json
from benchmark.errors import UserError
from benchmark.record import Record, read_record

# Raise it when the table changes; an older program then refuses the file instead of misreading it.
SCHEMA_VERSION = 1
RUN = "run"

_WAIT_SECONDS = 60.0
_KEYS_A_QUERY = 500
_TABLE = """
CREATE TABLE records (
    key TEXT NOT NULL,
    suite TEXT NOT NULL,
    suite_digest TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed', 'skipped')),
    body TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    origin TEXT NOT NULL,
    written TEXT NOT NULL,
    PRIMARY KEY (key, suite_digest)
) WITHOUT ROWID
"""
# What is done stays: the first outcome of a cell is its outcome, whoever computes it again.
_PUT = """
INSERT INTO records (key, suite, suite_digest, status, body, sha256, origin, written)
VALUES (:key, :suite, :suite_digest, :status, :body, :sha256, :origin, :written)
ON CONFLICT (key, suite_digest) DO UPDATE SET
    suite = excluded.suite, status = excluded.status, body = excluded.body,
    sha256 = excluded.sha256, origin = excluded.origin, written = excluded.written
WHERE records.status != 'done'
"""
_CHECKED = ("key", "suite", "suite_digest", "status", "body", "origin", "written")
_WRITABLE = "make its folder writable or choose another one with --output"
# What is the surroundings' fault and not the file's.
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another process holds it; wait for that to end and run again",
    sqlite3.SQLITE_LOCKED: "another process holds it; wait for that to end and run again",
    sqlite3.SQLITE_FULL: "free some space and run again: what is stored is kept",
    sqlite3.SQLITE_IOERR: "check the disk it lies on and run again: what is stored is kept",
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
}
_RANK = {"failed": 0, "skipped": 1, "done": 2}


def record_text(record: Record) -> str:
    """The record as canonical JSON: equal records give equal texts.

    Raises:
        UserError: A number in it is NaN or infinite.
    """
    try:
        return canonical_json(record.to_json())
    except ValueError:
        raise UserError(
            f"attack {record.axes.attack} on defense {record.axes.defense}: the outcome holds NaN or infinity "
            "and cannot be recorded; return finite numbers"
        ) from None


class Store:
    """A suite's records on disk, as a context manager.

    Args:
        path: The file; it and its folder are made where they are missing.

    Raises:
        UserError: The file is damaged, written by a newer program, or not a results database; or its folder
            cannot be written to. The file is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Record] = {}
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            with self._explained():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything put is already in it."""
        with self._explained():
            self._connection.close()

    def put(self, record: Record, origin: str = RUN) -> None:
        """Keep a record, on disk when this returns; one that is done stays as it is.

        Args:
            record: A cell's outcome.
            origin: Where it comes from: `run`, or the released file it was copied from.

        Raises:
            UserError: It cannot be written, or holds NaN or infinity.
        """
        self.put_all([record], origin)

    def put_all(self, records: Iterable[Record], origin: str = RUN) -> None:
        """Keep several records, all or none of them; see `put`."""
        rows = [self._row(record, origin) for record in records]
        with self._explained(), self._transaction():
            self._connection.executemany(_PUT, rows)

    def get(self, keys: Iterable[str], suite_digest: str | None = None) -> dict[str, Record]:
        """Records of these cells, where there are any.

        Args:
            keys: Content keys.
            suite_digest: Only records filed under it; None takes a cell's best record,
                whichever suite it was run for.

        Returns:
            By key, in the order of `keys`.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Record] = {}
        for first in range(0, len(wanted), _KEYS_A_QUERY):
            some = wanted[first : first + _KEYS_A_QUERY]
            marks = ",".join("?" * len(some))
            for record in self._select(f"key IN ({marks}) ORDER BY key, written", some):
                if suite_digest not in (None, record.suite_digest):
                    continue
                held = found.get(record.key)
                if held is None or _RANK[record.status] >= _RANK[held.status]:
                    found[record.key] = record
        return {key: found[key] for key in wanted if key in found}

    def records(self, suite: str, suite_digest: str | None = None) -> list[Record]:
        """All records filed under a suite, by key.

        Args:
            suite: Its name.
            suite_digest: Only those run for this very file; None takes all, and results of different digests must not
                meet in one table.
        """
        if suite_digest is None:
            return self._select("suite = ? ORDER BY key, suite_digest", [suite])
        return self._select("suite = ? AND suite_digest = ? ORDER BY key", [suite, suite_digest])

    def oldest_first(self, suite: str, suite_digest: str) -> list[Record]:
        """All records filed under this very file of a suite, in the order they were written."""
        return self._select("suite = ? AND suite_digest = ? ORDER BY written, key", [suite, suite_digest])

    def failed(self, suite: str, suite_digest: str | None = None) -> list[Record]:
        """Records of cells that could not be measured, by key."""
        return [record for record in self.records(suite, suite_digest) if record.status == "failed"]

    def origins(self, keys: Iterable[str], suite_digest: str) -> dict[str, str]:
        """Where the records of these cells come from: `run`, or a released file."""
        with self._explained():
            rows = self._connection.execute("SELECT key, origin FROM records WHERE suite_digest = ?", [suite_digest])
            known: dict[str, str] = dict(rows)
        return {key: known[key] for key in keys if key in known}

    def _row(self, record: Record, origin: str) -> Mapping[str, str]:
        row = {
            "key": record.key,
            "suite": record.suite,
            "suite_digest": record.suite_digest,
            "status": record.status,
            "body": record_text(record),
            "origin": origin,
            "written": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        return row | {"sha256": _checksum(*(row[column] for column in _CHECKED))}

    def _select(self, where: str, values: list[str]) -> list[Record]:
        with self._explained():
            rows = self._connection.execute(f"SELECT sha256, body FROM records WHERE {where}", values).fetchall()
        try:
            return [self._record(checksum, body) for checksum, body in rows]
        except ValueError as error:
            raise UserError(f"store {self.path}: {error}; choose another folder with --output") from None

    def _record(self, checksum: str, body: str) -> Record:
        # A command looks at the same records several times, and to check one takes longer than all else.
        if checksum not in self._known:
            self._known[checksum] = read_record(body)
        return self._known[checksum]

    def _open(self) -> None:
        # Two processes that open a new file at once may find it locked in spite of the timeout, which SQLite
        # does not apply to a change of the journal's mode.
        until = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        # Cells cost seconds to hours, a flush milliseconds: a record survives a power cut, too.
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            tables = {
                name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            if version > SCHEMA_VERSION:
                raise UserError(
                    f"store {self.path} has schema {version}, this program knows up to {SCHEMA_VERSION}; "
                    "upgrade unsplit-bench or choose another folder with --output"
                )
            if version == 0 and tables:
                raise UserError(
                    f"store {self.path} is a database of something else; choose another folder with --output"
                )
            if version == 0:
                self._connection.execute(_TABLE)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            else:
                self._check()

    def _check(self) -> None:
        # SQLite checks the shape of its pages, not what is in them: a changed digit would pass for a result.
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        self._connection.create_function("checksum", len(_CHECKED), _checksum, deterministic=True)
        (changed,) = self._connection.execute(
            f"SELECT count(*) FROM records WHERE checksum({', '.join(_CHECKED)}) != sha256"
        ).fetchone()
        if changed:
            raise sqlite3.DatabaseError(f"{changed} records do not match their checksums")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # Immediate: a transaction that starts by reading cannot wait for a lock when it turns to writing.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # A full disk or a damaged page has ended the transaction already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # Some faults have no code: those that Python finds in what SQLite hands over.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            cause = " ".join(str(error).split())
            if code in _REMEDIES:
                raise UserError(f"store {self.path}: {cause}; {_REMEDIES[code]}") from None
            raise UserError(
                f"store {self.path} is damaged ({cause}); move it and its -wal file away and run again, "
                "or recover what it holds with `sqlite3 FILE .recover`"
            ) from None
        except OSError as error:
            cause = error.strerror or type(error).__name__
            raise UserError(f"store {self.path}: {cause}; choose another folder with --output") from None


def _checksum(*columns: str) -> str:
    return hashlib.sha256(canonical_json(columns).encode()).hexdigest()
