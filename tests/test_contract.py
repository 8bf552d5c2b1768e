"""Every plug-in that is found keeps the contract; none is named here."""

import pytest

from benchmark.discovery import Kind, listed
from benchmark.verify import verify

KINDS: tuple[Kind, ...] = ("defense", "attack")
BUILT_IN = [
    pytest.param(kind, origin.name, id=f"{kind} {origin.name}")
    for kind in KINDS
    for origin in listed(kind)
    if origin.source == "builtin"
]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_a_built_in_keeps_the_contract(kind: Kind, name: str) -> None:
    assert [check for check in verify(kind, name) if check.problem is not None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_built_in_is_called_as_its_file(kind: Kind) -> None:
    for origin in listed(kind):
        assert origin.file is None or origin.file.stem == origin.name


def test_plugins_are_found() -> None:
    assert len(BUILT_IN) > 10
