"""Where a result was made: versions, platform, commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("unsplit-bench", "torch", "torchvision", "opacus", "numpy", "scipy", "scikit-image", "pandas", "mlxtend")


@cache
def environment() -> dict[str, str]:
    """Package versions, Python, platform, and the repository's commit (`-dirty` where it has changes)."""
    facts = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    facts |= {name: _version(name) for name in PACKAGES}
    commit = _commit()
    return facts | ({"commit": commit} if commit else {})


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
