"""Runs a small plan of real cells on a Ray cluster: what the tests of the Ray executor compare, kill and move.

python drive_ray.py OUTPUT WHERE SPEC...

WHERE is the address of a cluster, `own` for one that is started for this run, or `local` for the local executor.
Each SPEC is an attack, after `defense=` a defense, or after `limit=` the seconds that a cell may take; every attack
meets all defenses, as one group.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmark.cell import Group, Plan
from benchmark.context import RunContext
from benchmark.data import load_dataset
from benchmark.errors import UserError
from benchmark.run import Limits, RayOptions, run_plan
from benchmark.store import Store
from tests.specs import cell_of, victim_spec

DEFENSE, LIMIT = "defense=", "limit="


def plan(specs: list[str]) -> Plan:
    """A group an attack."""
    digits = load_dataset("mnist-5k")
    defenses = [spec.removeprefix(DEFENSE) for spec in specs if spec.startswith(DEFENSE)]
    victims = [victim_spec(digits, defense, epochs=1, batch_size=500) for defense in defenses]
    attacks = [spec for spec in specs if not spec.startswith((DEFENSE, LIMIT))]
    return Plan("faults", "d1", tuple(Group(tuple(cell_of(v, attack) for v in victims)) for attack in attacks))


def main(output: Path, where: str, specs: list[str]) -> None:
    """Run the plan and print `done failed planned`, and how many records arrived twice."""
    made = plan(specs)
    limits = [float(spec.removeprefix(LIMIT)) for spec in specs if spec.startswith(LIMIT)]
    arrived: list[str] = []
    address = None if where == "own" else where
    # Planted clients are another matter, and not of these attacks.
    context = RunContext(
        made.suite, made.suite_digest, str(output / "victims"), images=str(output / "images"), verdicts={}
    )
    with Store(output / "store.sqlite") as store:
        outcome = run_plan(
            made,
            store,
            context,
            executor="local" if where == "local" else "ray",
            workers=1,
            cluster=RayOptions(address, workers=1 if address is None else None),
            limits=Limits(cell=limits[0] if limits else 300.0),
            released={},
            on_record=lambda record: arrived.append(record.key),
        )
    print(outcome.n_done, outcome.n_failed, outcome.n_planned, len(arrived) - len(set(arrived)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except UserError as error:
        sys.exit(str(error))
