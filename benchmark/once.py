"""What is measured on a victim and is the same for every attack on it: once a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from benchmark.metrics.utility import accuracy
from benchmark.tensors import tensors_digest

if TYPE_CHECKING:
    from benchmark.data import Dataset
    from benchmark.victim import Victim

_T = TypeVar("_T")
_KNOWN: WeakKeyDictionary[Dataset, dict[tuple[object, ...], Any]] = WeakKeyDictionary()


def once(victim: Victim, dataset: Dataset, what: tuple[object, ...], measure: Callable[[], _T]) -> _T:
    """What `measure` gives, from memory where it was asked for before.

    Victims count as the same by content and not by object: every group of cells loads its victims anew.

    Args:
        victim: On what it is measured.
        dataset: With whose data.
        what: Names what is measured, with everything it depends on beside victim and data.
        measure: Measures it; callers share the result and must not change it.
    """
    known = _KNOWN.setdefault(dataset, {})
    key = (_content(victim), *what)
    if key not in known:
        known[key] = measure()
    value: _T = known[key]
    return value


def victim_accuracy(victim: Victim, dataset: Dataset, part: Literal["test", "auxiliary"]) -> float:
    """Share of right labels at inference, defenses on, in [0, 1].

    Args:
        victim: On any device.
        dataset: Its data.
        part: Which of the parts that it did not train on.

    Raises:
        UserError: The part is empty, or the network predicts NaN.
    """

    def measure() -> float:
        name = ("utility",) if part == "test" else ("utility", part)
        predict = partial(victim.predict, protection=victim.protection.restarted(*name))
        return accuracy(predict, dataset.parts()[part].to(victim.device))

    return once(victim, dataset, ("accuracy", part), measure)


def _content(victim: Victim) -> str:
    tensors = {
        f"{part}/{name}": value
        for part, module in victim.split.parts().items()
        for name, value in module.state_dict().items()
    }
    for index, defense in enumerate(victim.protection.defenses):
        tensors |= {f"defense/{index}/{name}": value for name, value in defense.state.items()}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return tensors_digest(plain, {"victim": victim.spec.key(), "device": str(victim.device)})
