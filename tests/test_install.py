"""The project as others get it: a wheel with every package and data file, and a console script for any folder."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = ("benchmark", "attacks", "defenses", "suites", "results")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> list[Path]:
    """Every file of the packages, relative to the repository."""
    files = (path for top in TOP_LEVEL for path in (ROOT / top).rglob("*") if path.is_file())
    return sorted(path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts)


def distribution(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_package_is_listed() -> None:
    packages = {".".join(path.parent.parts) for path in sources() if path.name == "__init__.py"}
    assert set(project()["tool"]["setuptools"]["packages"]) == packages


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in sources() if path.suffix == ".py" and "templates" not in path.parts}
    assert [folder for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def test_every_library_that_is_imported_is_a_declared_dependency() -> None:
    modules = {
        name.split(".")[0]
        for path in sources()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        for name in imported(node)
    }
    foreign = modules - set(TOP_LEVEL) - sys.stdlib_module_names
    declared = project()["project"]
    extras = [names for extra, names in declared.get("optional-dependencies", {}).items() if extra != "dev"]
    allowed = {distribution(name) for names in [declared["dependencies"], *extras] for name in names}
    owners = importlib.metadata.packages_distributions()
    undeclared = {name for name in foreign if not {distribution(o) for o in owners.get(name, [name])} & allowed}
    assert undeclared == set()


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module]
    return []


@dataclass(frozen=True)
class Installed:
    """The project in an environment of its own."""

    python: Path
    script: Path
    site: Path
    shipped: frozenset[str]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    # A PYTHONPATH, least of all a relative one, must not decide which packages are found.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, built from a copy of the repository and installed beside this environment's libraries."""
    base = tmp_path_factory.mktemp("install")
    copy = base / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in TOP_LEVEL:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip")
    built = run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", base / "dist", copy, cwd=base)
    assert built.returncode == 0, built.stderr
    [wheel] = (base / "dist").glob("*.whl")

    environment = base / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    added = run(*pip, "--python", python, "install", "--no-deps", wheel, cwd=base)
    assert added.returncode == 0, added.stderr
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # Only now, so that pip did not take an installation of the project there for its own. A folder that is named in a
    # .pth file has its own .pth files ignored, and with them an editable installation of the project.
    (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    with ZipFile(wheel) as content:
        return Installed(python, environment / "bin" / "unsplit-bench", site, frozenset(content.namelist()))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with packages and a module of our names, each of which fails when imported."""
    for name in ("attacks", "defenses", "suites"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('foreign {name} imported')\n")
    (tmp_path / "benchmark.py").write_text("raise RuntimeError('foreign benchmark imported')\n")
    return tmp_path


@pytest.mark.slow
def test_the_wheel_ships_every_file_of_every_package(installed: Installed) -> None:
    assert [path.as_posix() for path in sources() if path.as_posix() not in installed.shipped] == []


@pytest.mark.slow
def test_the_wheel_ships_suites_results_and_licence(installed: Installed) -> None:
    assert any(re.fullmatch(r"suites/[^/]+\.yaml", name) for name in installed.shipped)
    assert any(name.startswith("results/") for name in installed.shipped)
    assert any(name.endswith("licenses/LICENSE") for name in installed.shipped)
    assert "benchmark/py.typed" in installed.shipped


@pytest.mark.slow
def test_the_packages_come_from_the_wheel(installed: Installed, foreign: Path) -> None:
    code = f"import {', '.join(TOP_LEVEL)}\nfor module in ({', '.join(TOP_LEVEL)}):\n    print(module.__file__)"
    found = run(installed.python, "-P", "-c", code, cwd=foreign)
    assert found.stdout.splitlines() == [str(installed.site / name / "__init__.py") for name in TOP_LEVEL], found.stderr


@pytest.mark.slow
def test_the_installed_package_loads_its_default_data_set(installed: Installed, foreign: Path) -> None:
    code = "from benchmark.data import load_dataset\nprint(len(load_dataset('mnist-5k').victim))"
    loaded = run(installed.python, "-P", "-c", code, cwd=foreign)
    assert loaded.stdout == "3000\n", loaded.stderr


@pytest.mark.slow
def test_the_console_script_gives_help_from_a_foreign_folder(installed: Installed, foreign: Path) -> None:
    helped = run(installed.script, "--help", cwd=foreign)
    assert helped.returncode == 0, helped.stderr
    assert "leaderboard" in helped.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("suites", "smoke-v1"), ("attacks", "unsplit"), ("defenses", "gaussian_noise"), ("datasets", "mnist-5k")],
)
def test_the_console_script_lists_what_was_shipped(installed: Installed, foreign: Path, kind: str, name: str) -> None:
    listed = run(installed.script, "list", kind, cwd=foreign)
    assert listed.returncode == 0, listed.stderr
    assert name in listed.stdout
