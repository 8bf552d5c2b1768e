"""Records that come with the package: `results/<suite>/records.parquet` and the manifest that says how it was made."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.environment import environment
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.record import SCHEMA, Axes, Record, read_record
from benchmark.store import record_text

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

RECORDS, MANIFEST = "records.parquet", "manifest.json"

_TYPES = {str: pa.string(), str | None: pa.string(), int: pa.int64(), list[str]: pa.list_(pa.string())}
_AXES = {axis.name: _TYPES[get_type_hints(Axes)[axis.name]] for axis in fields(Axes)}
_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "suite", "suite_digest", "status")),
        *_AXES.items(),
        ("body", pa.string()),
    ]
)
# Folders of the machine a record was made on, as they stand in tracebacks and error messages.
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/[\w.+@~-]+)+/(?=[\w.+-])")


def write_released(records: Iterable[Record], folder: Path, made_with: str = "unsplit-bench export") -> dict[str, Any]:
    """Write records and manifest to `folder`; the same records, in any order, give the same bytes.

    Folders of this machine are left out of reasons and tracebacks.

    Args:
        records: Of one suite and one digest; at least one.
        folder: Where `records.parquet` and `manifest.json` go, as a rule `results/<suite>`.
        made_with: The command that made them, for the manifest.

    Returns:
        The manifest.

    Raises:
        UserError: There are no records, or they are of several suites or digests, or the folder cannot be written to.
    """
    ordered = sorted((_published(record) for record in records), key=lambda record: record.key)
    filed = sorted({(record.suite, record.suite_digest) for record in ordered})
    if len(filed) != 1:
        found = ", ".join(f"{suite} ({digest[:12]})" for suite, digest in filed) or "none"
        raise UserError(f"cannot release to {folder}: records of exactly one suite are needed, found: {found}")
    content = _parquet(ordered)
    ((suite, digest),) = filed
    manifest = {
        "suite": suite,
        "suite_digest": digest,
        "schema": SCHEMA,
        "records": dict(sorted(Counter(record.status for record in ordered).items())),
        "sha256": hashlib.sha256(content).hexdigest(),
        "made_with": made_with,
        "made_by": environment(),
        "measured_by": _distinct(record.run["environment"] for record in ordered if "environment" in record.run),
    }
    # The manifest vouches for the records: written last, it never vouches for a file that is not there yet.
    write_atomically(folder / RECORDS, content)
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / MANIFEST, (text + "\n").encode())
    return manifest


def read_released(suite: str, root: Path | None = None) -> dict[str, Record]:
    """Records that were released for a suite, by key; empty where there are none.

    Args:
        suite: Its name.
        root: Folder that holds a folder a suite; None for the one that comes with the package.

    Raises:
        UserError: The file cannot be read, does not match its manifest, or was written by a newer program.
    """
    if not re.fullmatch(r"[\w.-]+", suite) or not suite.strip("."):
        return {}
    base: Traversable = resources.files("results") if root is None else root
    records, manifest = base / suite / RECORDS, base / suite / MANIFEST
    if not records.is_file():
        return {}
    try:
        content = records.read_bytes()
        stated = json.loads(manifest.read_bytes())
        if stated["schema"] > SCHEMA:
            raise UserError(
                f"released records {records} have schema {stated['schema']}, this program knows up to {SCHEMA}; "
                "upgrade unsplit-bench"
            )
        if hashlib.sha256(content).hexdigest() != stated["sha256"]:
            raise ValueError("it does not match the checksum in its manifest.json")
        bodies = pq.read_table(BytesIO(content), columns=["body"])["body"].to_pylist()
        made = [read_record(body) for body in bodies]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"released records {records} cannot be read ({cause}); install unsplit-bench again or delete their folder"
        ) from None
    return {record.key: record for record in made}


def _parquet(records: Sequence[Record]) -> bytes:
    rows = [
        {"key": r.key, "suite": r.suite, "suite_digest": r.suite_digest, "status": r.status}
        | asdict(r.axes)
        | {"body": record_text(r)}
        for r in records
    ]
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_COLUMNS), sink, compression="zstd", version="2.6")
    return sink.getvalue()


def _published(record: Record) -> Record:
    def public(text: str | None) -> str | None:
        return text and _FOLDERS.sub("", text)

    return replace(record, reason=public(record.reason), traceback=public(record.traceback))


def _distinct(environments: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    texts = {json.dumps(facts, sort_keys=True) for facts in environments}
    return [json.loads(text) for text in sorted(texts)]
