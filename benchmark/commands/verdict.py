"""`verify`: prints each check as it is run, and what to do where one fails; makes the verdicts that are released."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.verify import kind_of, planted_checks, verify

if TYPE_CHECKING:
    from benchmark.contract.check import Check


def show_verdict(text: str) -> int:
    """Check a plug-in against the contract, and an attack on planted clients.

    Returns:
        0 if it holds, 1 if not.

    Raises:
        UserError: There is no such plug-in, or it cannot be imported.
    """
    kind = kind_of(text)
    passed = failed = 0
    for check in _checks(kind == "attack", verify(kind, text), text):
        print(f"{'ok  ' if check.problem is None else 'FAIL'}  {check.title}", flush=True)
        if check.problem is None:
            passed += 1
        else:
            failed += 1
            print(f"      {check.problem}", flush=True)
    if failed:
        print(f"\n{text}: {failed} of {passed + failed} checks fail; correct the {kind} and verify again")
        return 1
    print(f"\n{text}: keeps the contract ({passed} checks); add it to a suite with --{kind} {text}")
    return 0


def _checks(is_attack: bool, contract: Iterator[Check], text: str) -> Iterator[Check]:
    kept = []
    for check in contract:
        kept.append(check.problem is None)
        yield check
    # What breaks the contract would only fail once more.
    if is_attack and all(kept):
        yield from planted_checks(text)


def release_verdicts(file: Path) -> int:
    """Run every built-in attack on its planted clients and write the verdicts.

    Returns:
        0 if every attack passes in the form that its class states a budget for, in each stance, 1 if not; verdicts are
        written in either case. Of other forms (an option that changes what is granted) it is enough that they are told.

    Raises:
        UserError: The file cannot be written.
    """
    from benchmark.planted_verdicts import Verdict, built_in, measure, verdict_key, write_verdicts

    started = time.perf_counter()
    verdicts: dict[str, Verdict] = {}
    failed: set[tuple[str, str]] = set()
    for refs in built_in():
        stated = {ref.parameters["stance"]: ref for ref in reversed(refs)}
        for ref in refs:
            verdict = verdicts[verdict_key(ref)] = measure(ref)
            print(f"{'ok  ' if verdict.passed else 'FAIL'}  {verdict.attack} ({verdict.stance})", flush=True)
            for score in verdict.scores:
                print(f"      {'' if score.passed else 'FAIL '}{score.sentence()}", flush=True)
            if not verdict.passed and ref in stated.values():
                failed.add((ref.name, verdict.stance))
    write_verdicts(verdicts, file)
    passed = sum(verdict.passed for verdict in verdicts.values())
    print(f"\n{file}: {len(verdicts)} verdicts, {passed} passed, {time.perf_counter() - started:.0f} s")
    for name, stance in sorted(failed):
        print(f"{name} ({stance}) fails with its own budget; correct it, or the budget in its class (planted)")
    return 1 if failed else 0
