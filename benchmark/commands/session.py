"""What every command on a suite's results starts with: the suite, its plan, and the records there are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.catalogue import Facts
from benchmark.commands.progress import Display
from benchmark.context import RunContext, chosen_device
from benchmark.errors import UserError
from benchmark.kept_plan import kept_plan
from benchmark.options import Options
from benchmark.released import read_released
from benchmark.rows import axes_text
from benchmark.run import Limits, RayOptions, RunOutcome, records_of, run_plan
from benchmark.spec import parse_composed
from benchmark.store import Store
from benchmark.suite import load_suite

if TYPE_CHECKING:
    from benchmark.cell import Plan
    from benchmark.record import Record
    from benchmark.suite_format import Suite


IMAGES = "reconstructions"


def planned(options: Options, *, to_read: bool = False) -> tuple[Suite, Plan]:
    """The suite and its plan, with the defenses and attacks from outside.

    Args:
        options: What the user asked for.
        to_read: Results are only read: data sets that are not on this machine are known from their records.

    Raises:
        UserError: Anything the user wrote is wrong.
    """
    suite = load_suite(options.suite)

    def make() -> Plan:
        # Imported late: with plug-ins and data sets comes PyTorch.
        from benchmark import registry
        from benchmark.plan import plan

        recorded = _recorded_facts(options, suite) if to_read else {}
        defenses = [[registry.reference("defense", spec) for spec in parse_composed(text)] for text in options.defenses]
        attacks = [registry.reference("attack", text) for text in options.attacks]
        root, download = options.data_root, options.download
        return plan(suite, defenses, attacks, data_root=root, download=download, recorded=recorded)

    outside = [f"--{kind} {text}" for kind in ("defense", "attack") for text in getattr(options, f"{kind}s")]
    return suite, kept_plan(suite, outside, options.data_root, make)


def _recorded_facts(options: Options, suite: Suite) -> dict[str, Facts]:
    with opened_store(options.output, write=False) as store:
        records = [*read_released(suite.name).values(), *store.records(suite.name, suite.digest)]
    return {
        record.axes.dataset: Facts(
            record.axes.dataset,
            record.targets["dataset_digest"],
            tuple(record.targets["image_shape"]),
            record.targets["n_classes"],
        )
        for record in records
        if "image_shape" in record.targets
    }


def measured(options: Options, suite: Suite, made: Plan, store: Store) -> RunOutcome:
    """Run what is missing of a plan, and show how far it is.

    Raises:
        UserError: See `benchmark.run.run_plan`.
    """
    context = context_of(options, made, options.output / "victims")
    return _run(options, suite, made, store, context, released_for(options))


def released_for(options: Options) -> dict[str, Record] | None:
    """What may stand in for a record that was not made here: nothing where all is to be measured."""
    return {} if options.fresh else None


def measured_perturbed(options: Options, suite: Suite, made: Plan, folder: Path) -> list[Record]:
    """The same cells with every image moved by 1e-7, in a store of their own: what rounding may move."""
    context = replace(context_of(options, made, folder / "victims"), perturbation=1e-7, images=None, verdicts={})
    with Store(folder / "store.sqlite") as store:
        _run(options, suite, made, store, context, released={})
        return records_of(made, store, {})


def _run(
    options: Options,
    suite: Suite,
    made: Plan,
    store: Store,
    context: RunContext,
    released: dict[str, Record] | None,
) -> RunOutcome:
    there = sum(record.status != "failed" for record in records_of(made, store, released))
    title = suite.name + (" with images moved by 1e-7" if context.perturbation else "")
    with Display(title, len(made.cells), there) as display:
        return run_plan(
            made,
            store,
            context,
            executor=options.executor,
            workers=options.workers,
            cluster=cluster_of(options),
            limits=Limits(cell=options.limit or suite.cell_limit),
            logs=store.path.parent / "logs",
            released=released,
            on_record=display.on_record,
            on_progress=display.on_progress,
            on_planted=display.on_planted,
        )


def context_of(options: Options, made: Plan, cache: Path) -> RunContext:
    """What a run needs beside its plan."""
    return RunContext(
        suite=made.suite,
        suite_digest=made.suite_digest,
        cache=str(cache.absolute()),
        data_root=None if options.data_root is None else str(options.data_root.expanduser().absolute()),
        device=device_of(options),
        memory=int(options.memory * 1024**3),
        images=str((options.output / IMAGES).absolute()),
    )


def cluster_of(options: Options) -> RayOptions:
    """Which Ray cluster, and what a task takes there.

    Raises:
        UserError: Something is said of a cluster though none is used.
    """
    if options.executor != "ray":
        for name in ("address", "cpus_per_task", "gpus_per_task"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: is of Ray clusters only; add --executor ray")
    cpus = 1.0 if options.cpus_per_task is None else options.cpus_per_task
    return RayOptions(options.address, options.workers, cpus, options.gpus_per_task or 0.0)


def device_of(options: Options) -> str:
    """Where tensors are; with Ray on the nodes, whose GPUs this machine need not have.

    Raises:
        UserError: The device is not there, or not what is asked of the cluster.
    """
    if options.executor != "ray":
        # What may not be there is refused before anything runs; `auto` each process finds out for itself.
        return str(chosen_device(options.device)) if options.device == "cuda" else options.device
    gpus = bool(options.gpus_per_task)
    if options.device == ("cpu" if gpus else "cuda"):
        remedy = "leave --gpus-per-task out" if gpus else "add --gpus-per-task"
        raise UserError(f"--device {options.device} --executor ray: a task uses the GPUs that it asks for; {remedy}")
    return "cuda" if gpus else "cpu"


@contextmanager
def opened_store(output: Path, *, write: bool = True) -> Iterator[Store]:
    """The store in the output folder.

    Args:
        output: The folder.
        write: Make it where there is none; otherwise an empty one elsewhere stands in, so that reading leaves no trace.

    Raises:
        UserError: It cannot be opened.
    """
    path = output / "store.sqlite"
    if write or path.exists():
        with Store(path) as store:
            yield store
        return
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
        yield store


def known_records(made: Plan, store: Store, released: dict[str, Record] | None = None) -> list[Record]:
    """The plan's records, and those of defenses and attacks from outside that were run for the same suite before.

    Of a plug-in whose code has changed since, only what the plan asks for or what was written last stands for it.
    """
    found = records_of(made, store, released)
    asked = {axes_text(record.axes) for record in found}
    further = {
        text: record
        for record in store.oldest_first(made.suite, made.suite_digest)
        if (text := axes_text(record.axes)) not in asked
    }
    return found + list(further.values())
