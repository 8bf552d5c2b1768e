"""Forks drivers of a small suite that have imported everything already: what is killed fifty times should start fast.

python nursery.py PICTURES, then for each line of standard input, JSON with the keys

    output     folder of store, victims and what the driver prints (`said`)
    fsize      bytes that a file may grow to, as if the disk were full then; null for any size
    uid        user to run as; null for this one

a driver is forked into a process group of its own. Its process id is printed and, when it has ended, its status.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import torch

from benchmark.cell import Group, Plan, TargetRule, Watch
from benchmark.context import RunContext
from benchmark.data import load_dataset
from benchmark.errors import UserError
from benchmark.run import run_plan
from benchmark.store import Store
from tests.specs import cell_of, victim_spec

FAULTY = Path(__file__).parent / "faulty.py"
DEFENSES = ("gaussian_noise:sigma=0.1", "dropout:rate=0.5")
MARKS = 15


def plan(pictures: str) -> Plan:
    """Groups of a client with noise and one with dropout; the second takes part in training, and both are watched."""
    data = load_dataset(f"image_folder:path={pictures},size=28,channels=1")
    watch = Watch(TargetRule("per_class", 1))
    victims = [victim_spec(data, defense, epochs=1, batch_size=6, watch=watch) for defense in DEFENSES]
    attacks = [f"{FAULTY}:Clones:mark={mark}" for mark in range(MARKS)]
    phases = ("inference", "training")
    groups = [
        Group(tuple(cell_of(victim, attack, phase=phases[mark % 2], targets=watch.rule) for victim in victims))
        for mark, attack in enumerate(attacks)
    ]
    return Plan("faults", "d1", tuple(groups))


def drive(made: Plan, output: Path) -> str:
    """Run the plan in this process and return `done failed planned`."""
    context = RunContext(made.suite, made.suite_digest, str(output / "victims"), verdicts={})
    with Store(output / "store.sqlite") as store:
        outcome = run_plan(made, store, context, executor="inline", released={})
    return f"{outcome.n_done} {outcome.n_failed} {outcome.n_planned}"


def child(made: Plan, order: dict[str, object]) -> int:
    """Carry out an order; returns the exit code."""
    output = Path(str(order["output"]))
    said = os.open(output.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if order["fsize"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(str(order["fsize"])),) * 2)
    if order["uid"] is not None:
        os.setgid(int(str(order["uid"])))
        os.setuid(int(str(order["uid"])))
    try:
        print(drive(made, output), flush=True)
    except UserError as error:
        print(error, flush=True)
        return 2
    return 0


def main(pictures: str) -> None:
    """Fork a driver for every line."""
    torch.set_num_threads(1)
    # Imports the parts of torch that an optimiser takes its time for.
    torch.optim.Adam([torch.zeros(1, requires_grad=True, device="cpu")])
    made = plan(pictures)
    print("ready", flush=True)
    for line in sys.stdin:
        forked = os.fork()
        if forked == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                code = child(made, json.loads(line))
            finally:
                os._exit(code)
        os.setpgid(forked, forked)
        print(forked, flush=True)
        print(os.waitpid(forked, 0)[1], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
