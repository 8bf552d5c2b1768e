"""Imports a user's plug-in file, with its folder importable for the local files it imports."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_modules: dict[str, ModuleType] = {}
# Names of modules that plug-ins brought along from their own folders.
_locals: set[str] = set()


def import_file(file: Path, digest: str) -> ModuleType:
    """The module of `file`, run once for each content.

    Args:
        file: Absolute.
        digest: Of its content and of what it imports; a changed file is imported anew.

    Raises:
        Exception: Whatever the file raises.
    """
    name = "unsplit_bench_plugin_" + hashlib.sha256(f"{digest} {file}".encode()).hexdigest()[:16]
    if name in _modules:
        return _modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _forget_locals()
    before = set(sys.modules)
    folder = str(file.parent)
    sys.path.insert(0, folder)
    # Registered before it runs: pydantic and dataclasses look a class's module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
        # At the end it still serves imports inside functions, without hiding installed packages.
        if folder not in sys.path:
            sys.path.append(folder)
        _locals.update(new for new in set(sys.modules) - before - {name} if _lies_in(new, file.parent))
    _modules[name] = module
    return module


def _forget_locals() -> None:
    # Two folders may each have a `layers.py`: the second plug-in would silently get the first one's. The first
    # keeps its own, which it has imported.
    for name in _locals:
        sys.modules.pop(name, None)
    _locals.clear()


def _lies_in(name: str, folder: Path) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    first = name.partition(".")[0]
    if file is None or first in ("benchmark", "attacks", "defenses"):
        return False
    path = Path(file).resolve()
    return path == folder / f"{first}.py" or path.is_relative_to(folder / first)
