from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark.data import Dataset
from benchmark.once import once, once_for_network, undefended_predictions, victim_accuracy
from benchmark.victim import Victim, obtain_victim
from tests.specs import victim_spec


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("victims")


def load(digits: Dataset, cache: Path) -> Victim:
    return obtain_victim(victim_spec(digits), digits, cache, torch.device("cpu"))


def counted(victim: Victim, digits: Dataset, what: str, calls: list[str]) -> str:
    return once(victim, digits, (what,), lambda: calls.append(what) or what)


def test_a_victim_loaded_again_is_not_measured_again(digits: Dataset, cache: Path) -> None:
    calls: list[str] = []
    found = [counted(load(digits, cache), digits, "first", calls) for _ in range(3)]
    assert (found, calls) == (["first"] * 3, ["first"])


def test_another_measure_and_other_data_are_measured(digits: Dataset, cache: Path) -> None:
    calls: list[str] = []
    counted(load(digits, cache), digits, "second", calls)
    counted(load(digits, cache), digits, "third", calls)
    counted(load(digits, cache), replace(digits), "second", calls)
    assert calls == ["second", "third", "second"]


def test_a_victim_whose_weights_were_moved_is_another_one(digits: Dataset, cache: Path) -> None:
    plain, moved = load(digits, cache), load(digits, cache)
    before = victim_accuracy(plain, digits, "test")
    with torch.no_grad():
        for weight in moved.split.body.parameters():
            weight.mul_(-1)
    assert victim_accuracy(moved, digits, "test") < before == victim_accuracy(plain, digits, "test")


def test_a_network_is_measured_once_wherever_it_is_cut(digits: Dataset, cache: Path) -> None:
    calls: list[str] = []
    for cut, topology, tail in (("pool1", "vanilla", None), ("pool2", "vanilla", None), ("pool1", "u_shaped", "fc3")):
        spec = replace(victim_spec(digits), topology=topology, cut=cut, cut_reached=cut, tail=tail)
        victim = obtain_victim(spec, digits, cache, torch.device("cpu"))
        once_for_network(victim, digits, ("network",), lambda cut=cut: calls.append(cut))
    assert calls == ["pool1"]


def test_a_network_under_a_defense_is_measured_for_itself(digits: Dataset, cache: Path) -> None:
    calls: list[str] = []
    for defenses in ((), ("deeper_split:to=pool2",)):
        spec = victim_spec(digits, *defenses)
        victim = obtain_victim(spec, digits, cache, torch.device("cpu"))
        once_for_network(victim, digits, ("defended",), lambda defenses=defenses: calls.append(str(defenses)))
    assert len(calls) == 2


def test_what_a_network_predicts_is_what_its_victim_does_without_defenses(digits: Dataset, cache: Path) -> None:
    victim = load(digits, cache)
    labels = victim.predict(digits.test.images, victim.protection).argmax(dim=1)
    assert torch.equal(undefended_predictions(victim, digits, "test"), labels)


def test_accuracy_is_that_of_the_part_asked_for(digits: Dataset, cache: Path) -> None:
    victim = load(digits, cache)
    for part in ("test", "auxiliary"):
        samples = digits.parts()[part]
        right = victim.predict(samples.images, victim.protection).argmax(dim=1) == samples.labels
        assert victim_accuracy(victim, digits, part) == pytest.approx(float(right.double().mean()))
