"""Names of plug-ins short enough for a table: the fewest parameters that tell the variants of one name apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import pandas as pd

Variant = tuple[str, str]

TRIED = 3


def short_names(variants: Iterable[Variant]) -> dict[Variant, str]:
    """A name for every variant: unique among them, so that it means the same wherever it is printed.

    The plug-in's name alone where there is one variant of it, else with the fewest parameters that tell its variants
    apart; of as few, those in words before those in numbers. A variant that sets none of them keeps the bare name.

    Args:
        variants: (name, parameters as `key=value,key=value`) of everything that is printed, in any order.
    """
    groups: dict[str, list[Variant]] = {}
    for variant in sorted(set(variants)):
        groups.setdefault(variant[0], []).append(variant)
    named: dict[Variant, str] = {}
    for name, members in groups.items():
        values = [_values(params) for _, params in members]
        keys = next(_telling(values))
        shown = [[f"{key}={one[key]}" for key in keys if key in one] for one in values]
        texts = [full_name(name, ",".join(parts)) for parts in shown]
        unique = len(set(texts)) == len(texts)
        named |= dict(zip(members, texts if unique else (full_name(*member) for member in members), strict=True))
    return named


def names_across(groups: Iterable[Iterable[Variant]]) -> dict[Variant, str]:
    """A name for every variant that is unique within each group and says the same in all of them.

    As `short_names`, but variants that never meet in one group may share a name: those whose settings differ only where
    one data set is too dear for another's.
    """
    parted = [sorted(set(group)) for group in groups]
    named: dict[Variant, str] = {}
    for name in sorted({variant[0] for group in parted for variant in group}):
        values = [[_values(params) for plugin, params in group if plugin == name] for group in parted]
        keys = _telling_all(values)
        for group in parted:
            for variant in group:
                if variant[0] == name:
                    told = _values(variant[1])
                    named[variant] = full_name(name, ",".join(f"{key}={told[key]}" for key in keys if key in told))
    return named


def _telling_all(groups: Sequence[Sequence[Mapping[str, str]]]) -> tuple[str, ...]:
    """The fewest keys on which no two of any group agree."""
    every = list(dict.fromkeys(key for group in groups for one in group for key in one))
    every.sort(key=lambda key: any(_is_number(one[key]) for group in groups for one in group if key in one))
    for size in range(len(every)):
        for chosen in combinations(every, size):
            if all(len({tuple(one.get(key) for key in chosen) for one in group}) == len(group) for group in groups):
                return chosen
    return tuple(every)


def full_name(name: str, params: str) -> str:
    """`name` or `name (key=value, key=value)`."""
    return f"{name} ({', '.join(_parts(params))})" if params else name


def legend(named: Mapping[Variant, str]) -> list[tuple[str, str]]:
    """(short name, all its parameters) of every name that leaves some out, sorted."""
    return sorted((short, ", ".join(_parts(v[1]))) for v, short in named.items() if short != full_name(*v))


def attack_names(attacks: pd.DataFrame) -> dict[Variant, str]:
    """Short names of the attacks and references in `benchmark.leaderboard.Leaderboard.attacks`."""
    chosen = attacks[attacks["role"] != "control"]
    return short_names(zip(chosen["attack"], chosen["attack_params"], strict=True))


def defense_names(rows: pd.DataFrame) -> dict[Variant, str]:
    """Short names of the defenses in `benchmark.leaderboard.Leaderboard.rows`."""
    return short_names(zip(rows["defense"], rows["params"], strict=True))


def _telling(values: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, ...]]:
    # Sets of keys on which no two variants agree, the smallest first; all that differ where few do not suffice.
    keys = [key for key in dict.fromkeys(k for one in values for k in one) if len({one.get(key) for one in values}) > 1]
    keys.sort(key=lambda key: any(_is_number(one[key]) for one in values if key in one))
    for size in range(min(TRIED, len(keys)) + 1):
        for chosen in combinations(keys, size):
            if len({tuple(one.get(key) for key in chosen) for one in values}) == len(values):
                yield chosen
    yield tuple(keys)


def _parts(params: str) -> list[str]:
    # A value may hold commas; a new parameter starts with its name.
    return re.split(r",(?=[A-Za-z_]\w*=)", params) if params else []


def _values(params: str) -> dict[str, str]:
    return {key: value for key, _, value in (part.partition("=") for part in _parts(params))}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
