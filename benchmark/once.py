"""What is measured on a victim, its network or its data and is the same for every attack: once a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from benchmark.cell import canonical_json
from benchmark.metrics.evaluating import evaluating_fast
from benchmark.metrics.stealing import victim_predictions
from benchmark.metrics.utility import accuracy, share_right
from benchmark.tensors import tensors_digest

if TYPE_CHECKING:
    from torch import Tensor

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
    defenses = {
        f"defense/{index}/{name}": value
        for index, defense in enumerate(victim.protection.defenses)
        for name, value in defense.state.items()
    }
    return once_for_data(dataset, (_content(victim, defenses, victim.spec.key()), *what), measure)


def once_for_network(victim: Victim, dataset: Dataset, what: tuple[object, ...], measure: Callable[[], _T]) -> _T:
    """The same for what depends on nothing of a victim but its whole network, wherever that is cut."""
    # A defense may have changed more of it than its weights.
    named = victim.spec.key() if victim.protection.defenses else canonical_json(victim.spec.model.identity())
    return once_for_data(dataset, (_content(victim, {}, named), *what), measure)


def once_for_data(dataset: Dataset, what: tuple[object, ...], measure: Callable[[], _T]) -> _T:
    """The same for what depends on no victim."""
    known = _KNOWN.setdefault(dataset, {})
    if what not in known:
        known[what] = measure()
    value: _T = known[what]
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
    if not victim.protection.defenses:
        return share_right(undefended_predictions(victim, dataset, part), dataset.parts()[part])

    def measure() -> float:
        name = ("utility",) if part == "test" else ("utility", part)
        predict = partial(victim.predict, protection=victim.protection.restarted(*name))
        with evaluating_fast(*victim.split.parts().values()):
            return accuracy(predict, dataset.parts()[part].to(victim.device))

    return once(victim, dataset, ("accuracy", part), measure)


def undefended_predictions(victim: Victim, dataset: Dataset, part: Literal["test", "auxiliary"]) -> Tensor:
    """Labels that the victim's network predicts for a part with no defense around it, [n], int64, on its device.

    Raises:
        UserError: The network predicts NaN.
    """

    def measure() -> Tensor:
        return victim_predictions(victim.split, dataset.parts()[part].to(victim.device))

    return once_for_network(victim, dataset, ("predictions", part), measure)


def _content(victim: Victim, further: dict[str, Tensor], named: str) -> str:
    # Names of layers are unique in a network, wherever it is cut.
    tensors = {
        name: value for module in victim.split.parts().values() for name, value in module.state_dict().items()
    } | further
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return tensors_digest(plain, {"of": named, "device": str(victim.device)})
