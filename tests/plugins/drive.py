"""Runs a small plan of real cells in worker processes: what the fault tests kill, double and disturb.

python drive.py OUTPUT ATTACK...

The environment variable HELD, if set, says how many bytes the workers may hold together.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmark.cell import Group, Plan
from benchmark.context import RunContext
from benchmark.data import load_dataset
from benchmark.errors import UserError
from benchmark.run import Limits, run_plan
from benchmark.store import Store
from tests.specs import cell_of, victim_spec

FAULTY = Path(__file__).parent / "faulty.py"
DEFENSES = ("gaussian_noise:sigma=0.1", "gaussian_noise:sigma=5.0")


def plan(attacks: list[str]) -> Plan:
    """For each attack, written as in a suite after `faulty.py:`, a group of a quiet and a loud victim."""
    digits = load_dataset("mnist-5k")
    victims = [victim_spec(digits, defense, epochs=1, batch_size=500) for defense in DEFENSES]
    groups = [Group(tuple(cell_of(victim, f"{FAULTY}:{attack}") for victim in victims)) for attack in attacks]
    return Plan("faults", "d1", tuple(groups))


def main(output: Path, attacks: list[str]) -> None:
    """Run the plan and print `done failed planned`."""
    made = plan(attacks)
    with Store(output / "store.sqlite") as store:
        outcome = run_plan(
            made,
            store,
            RunContext(made.suite, made.suite_digest, str(output / "victims"), verdicts={}),
            limits=Limits(cell=20.0, memory=int(os.environ["HELD"]) if "HELD" in os.environ else None),
            released={},
        )
    print(outcome.n_done, outcome.n_failed, outcome.n_planned)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except UserError as error:
        sys.exit(str(error))
