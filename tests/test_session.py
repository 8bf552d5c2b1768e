from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmark.cell import PluginRef
from benchmark.commands.session import known_records
from benchmark.store import Store
from tests.record_factory import cell, plan, record


def changed(ref: PluginRef) -> PluginRef:
    return replace(ref, digest="f" * 64)


def test_of_an_attack_whose_code_has_changed_only_what_the_plan_asks_for_is_told(tmp_path: Path) -> None:
    now = cell()
    before = replace(now, attack=changed(now.attack))
    store = Store(tmp_path / "store.sqlite")
    for of in (before, now):
        store.put(record(of))
    assert [found.key for found in known_records(plan([now]), store, {})] == [now.key()]
