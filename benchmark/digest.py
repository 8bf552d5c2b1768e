"""A digest of what a plug-in's code does: unmoved by comments, docstrings and layout, moved by everything else.

It covers the plug-in's file and the local files it imports. Installed libraries are not followed (a record names their
versions), nor is the harness (`benchmark.cell.RESULTS_VERSION` stands for it, and for the two base classes).
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import PluginError

HARNESS = Path(__file__).resolve().parents[1]
_PLUGIN_PACKAGES = ("attacks", "defenses")
_CONTRACTS = {HARNESS / package / "base.py" for package in _PLUGIN_PACKAGES}


def code_digest(path: Path, name: str, *, alone: bool = False) -> str:
    """SHA-256, 64 hex digits, of the object `name` in the file `path`.

    Args:
        path: The plug-in's file. Local is what lies in its folder and in the package that the folder belongs to.
        name: Its class or function; two of one file differ.
        alone: Digest only the definition of `name`, without the rest of the file and its imports.

    Raises:
        PluginError: A file cannot be read or is not Python.
    """
    digest = hashlib.sha256(name.encode())
    if alone:
        digest.update(canonical_code(_definition(_parsed(path), name, path)).encode())
        return digest.hexdigest()
    for label, tree in _local_files(path.resolve()):
        digest.update(f"\n{label}\n{canonical_code(tree)}".encode())
    return digest.hexdigest()


def source_digest(source: str, name: str) -> str:
    """The same for a class that has no file, from its source text."""
    code = canonical_code(ast.parse(source))
    return hashlib.sha256(f"{name}\n\n{code}".encode()).hexdigest()


def canonical_code(node: ast.AST) -> str:
    """The syntax tree as a text that is the same under every version of Python.

    `ast.dump` is not: versions differ in empty fields, which are left out here. Docstrings go too.
    """
    return "".join(_written(node))


def _written(value: object) -> Iterator[str]:
    if isinstance(value, ast.AST):
        yield type(value).__name__ + "("
        for field, inner in ast.iter_fields(value):
            if field == "body" and isinstance(inner, list) and _has_docstring(value):
                inner = inner[1:]
            if inner is None or inner == [] or field in ("kind", "type_comment", "ctx"):
                continue
            yield field + "="
            yield from _written(inner)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for inner in value:
            yield from _written(inner)
            yield ","
        yield "]"
    else:
        yield repr(value)


def _has_docstring(node: ast.AST) -> bool:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None


def has_relative_imports(path: Path) -> bool:
    """Whether the file works only as a part of its package."""
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in ast.walk(_parsed(path)))


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except OSError as error:
        raise PluginError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise PluginError(f"{path}{line}: not valid Python ({error}); correct the file") from None


def _definition(tree: ast.Module, name: str, path: Path) -> ast.AST:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
    raise PluginError(f"{path}: defines no {name!r}; check the name")


@dataclass(frozen=True)
class _Place:
    """Where a plug-in's imports are looked for: in its folder, and in its package from `root` on."""

    folder: Path
    root: Path

    @classmethod
    def of(cls, path: Path) -> _Place:
        root = path.parent
        while (root / "__init__.py").is_file():
            root = root.parent
        return cls(path.parent, root)

    def imported(self, tree: ast.Module, current: Path) -> Iterator[Path]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._resolved(alias.name)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield from self._resolved(node.module)
                for alias in node.names:
                    yield from self._resolved(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.ImportFrom) and current.parents[node.level - 1].is_relative_to(self.root):
                base, module = current.parents[node.level - 1], f"{node.module}." if node.module else ""
                for name in [module[:-1], *(module + alias.name for alias in node.names)]:
                    yield from _files(base, name)

    def _resolved(self, name: str) -> Iterator[Path]:
        first = name.partition(".")[0]
        if first in _PLUGIN_PACKAGES:
            yield from _files(HARNESS, name)
        elif first != "benchmark":
            if self.folder.name not in ("site-packages", "dist-packages"):
                yield from _files(self.folder, name)
            if self.root != self.folder and self.folder.relative_to(self.root).parts[0] == first:
                yield from _files(self.root, name)

    def label(self, file: Path) -> str:
        return file.relative_to(self.root if file.is_relative_to(self.root) else HARNESS).as_posix()


def local_files(path: Path) -> tuple[Path, list[Path]]:
    """What of the user's own a plug-in needs to be imported elsewhere: the files that its digest covers.

    Args:
        path: The plug-in's file.

    Returns:
        The folder they lie below, and the files, sorted: the plug-in's own, those it imports, directly or not, and the
        `__init__.py` of each package they are in. The digest is the same wherever that tree lies.

    Raises:
        PluginError: A file cannot be read or is not Python.
    """
    place, trees = _local_trees(path.resolve())
    own = {file for file in trees if file.is_relative_to(place.root)}
    folders = {folder for file in own for folder in file.relative_to(place.root).parents}
    packages = {place.root / folder / "__init__.py" for folder in folders}
    return place.root, sorted(own | {file for file in packages if file.is_file()})


def _local_files(path: Path) -> Iterator[tuple[str, ast.Module]]:
    """The file and every local file it imports, directly or not: the file first, then by name."""
    place, found = _local_trees(path)
    yield "", found.pop(path)
    labelled = [(place.label(file), tree) for file, tree in found.items()]
    yield from sorted(labelled, key=lambda item: item[0])


def _local_trees(path: Path) -> tuple[_Place, dict[Path, ast.Module]]:
    place = _Place.of(path)
    found: dict[Path, ast.Module] = {path: _parsed(path)}
    todo = [path]
    while todo:
        current = todo.pop()
        for imported in place.imported(found[current], current):
            if imported not in found and imported not in _CONTRACTS:
                found[imported] = _parsed(imported)
                todo.append(imported)
    return place, found


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Files that importing the dotted `name` runs, as far as they exist below `folder`."""
    here = folder
    for part in filter(None, name.split(".")):
        module, here = here / f"{part}.py", here / part
        for file in (module, here / "__init__.py"):
            if file.is_file():
                yield file.resolve()
