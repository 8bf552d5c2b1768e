from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.discovery import Kind, listed
from benchmark.verify import verify

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_every_example_keeps_the_contract(path: Path) -> None:
    (name,) = [line.split()[1].split("(")[0] for line in path.read_text().splitlines() if line.startswith("class ")]
    broken = [check for check in verify("defense", f"{path}:{name}") if check.problem is not None]
    assert not broken


def test_the_readme_shows_the_example_as_it_is() -> None:
    shown = README.split("```python\n")[1].split("```")[0]
    code = (ROOT / "examples" / "activation_dropout.py").read_text()
    lines = [line.strip() for line in shown.splitlines() if line.strip() and '"""' not in line]
    assert lines
    assert all(line in code for line in lines)


@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_the_catalogue_names_every_built_in(kind: Kind) -> None:
    catalogue = (ROOT / "docs" / "catalogue.md").read_text()
    names = [origin.name for origin in listed(kind) if origin.source == "builtin"]
    assert names
    assert not [name for name in names if f"`{name}`" not in catalogue]
