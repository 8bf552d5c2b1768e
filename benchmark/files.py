"""Writing a file so that a reader, or a crash at any moment, meets the old one or the new one, whole."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from benchmark.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file `path` by one with `content`; its folder is made where it is missing.

    Raises:
        UserError: The folder cannot be made or written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise UserError(f"cannot write {path}: {cause}; choose another folder with --output or free it") from None
