"""`verify`: prints each check as it is run, and what to do where one fails."""

from __future__ import annotations

from benchmark.verify import kind_of, verify


def show_verdict(text: str) -> int:
    """Check a plug-in against the contract.

    Returns:
        0 if it holds, 1 if not.

    Raises:
        UserError: There is no such plug-in, or it cannot be imported.
    """
    kind = kind_of(text)
    passed = failed = 0
    for check in verify(kind, text):
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
