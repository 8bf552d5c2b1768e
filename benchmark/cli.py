"""The command line: parses, and calls `benchmark.commands`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.commands.session import Options

app = typer.Typer(
    help="Judges defenses for split learning by the attacks they must survive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where tensors are."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Executor(StrEnum):
    """Where groups of cells run."""

    LOCAL = "local"
    INLINE = "inline"
    RAY = "ray"


class Listed(StrEnum):
    """What can be listed."""

    SUITES = "suites"
    ATTACKS = "attacks"
    DEFENSES = "defenses"
    DATASETS = "datasets"
    MODELS = "models"


class Kind(StrEnum):
    """What can be started from a template."""

    DEFENSE = "defense"
    ATTACK = "attack"


SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name (see list suites) or .yaml file.")]
Defenses = Annotated[
    list[str] | None,
    typer.Option("--defense", metavar="SPEC", help="Add a defense: name:key=value, or path.py:Class; + composes."),
]
Attacks = Annotated[
    list[str] | None, typer.Option("--attack", metavar="SPEC", help="Add an attack: name:key=value, or path.py:Class.")
]
Output = Annotated[Path, typer.Option("--output", help="Folder of the store, victims, tables and logs.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the data sets (else UNSPLIT_BENCH_DATA, else the cache).")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch data sets that are missing.")]
DeviceName = Annotated[Device, typer.Option("--device", help="Where tensors are.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Processes.  [default: one a core; with OMP_NUM_THREADS threads each, fewer]"
    ),
]
Memory = Annotated[float, typer.Option("--memory", min=0.05, help="GiB an attack's tensors may take at once.")]
ExecutorName = Annotated[Executor, typer.Option("--executor", help="Child processes, this one, or a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster, auto or HOST:PORT.  [default: RAY_ADDRESS, or one started here]"),
]
CpusPerTask = Annotated[float | None, typer.Option("--cpus-per-task", help="CPUs of a Ray task.  [default: 1]")]
GpusPerTask = Annotated[float | None, typer.Option("--gpus-per-task", help="GPUs of a Ray task, 0.25 to share one.")]
Limit = Annotated[
    float | None, typer.Option("--limit", min=0.1, help="Seconds a cell may take.  [default: the suite's]")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Measure also what comes with the installation as a released record.")
]
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="md, csv, tex or json.")]

DEFAULT_OUTPUT = Path("unsplit-bench-out")


def _options(
    suite: str,
    *,
    output: Path,
    data_root: Path | None,
    defenses: list[str] | None = None,
    attacks: list[str] | None = None,
    device: Device = Device.AUTO,
    download: bool = False,
    workers: int | None = None,
    memory: float = 2.0,
    executor: Executor = Executor.LOCAL,
    address: str | None = None,
    cpus_per_task: float | None = None,
    gpus_per_task: float | None = None,
    limit: float | None = None,
    fresh: bool = False,
) -> Options:
    from benchmark.commands.session import Options

    return Options(
        suite=suite,
        defenses=tuple(defenses or ()),
        attacks=tuple(attacks or ()),
        output=output,
        device=device.value,
        data_root=data_root,
        download=download,
        workers=workers,
        memory=memory,
        executor=executor.value,
        address=address,
        cpus_per_task=cpus_per_task,
        gpus_per_task=gpus_per_task,
        limit=limit,
        fresh=fresh,
    )


@app.command()
def run(
    suite: SuiteName,
    defenses: Defenses = None,
    attacks: Attacks = None,
    output: Output = DEFAULT_OUTPUT,
    device: DeviceName = Device.AUTO,
    data_root: DataRoot = None,
    download: Download = False,
    workers: Workers = None,
    memory: Memory = 2.0,
    executor: ExecutorName = Executor.LOCAL,
    address: Address = None,
    cpus_per_task: CpusPerTask = None,
    gpus_per_task: GpusPerTask = None,
    limit: Limit = None,
    fresh: Fresh = False,
) -> None:
    """Run what is missing of a suite and print its leaderboard.

    Ends with 0 if every cell is done, 2 if some could not be measured.
    """
    from benchmark.commands import results

    options = _options(
        suite,
        defenses=defenses,
        attacks=attacks,
        output=output,
        device=device,
        data_root=data_root,
        download=download,
        workers=workers,
        memory=memory,
        executor=executor,
        address=address,
        cpus_per_task=cpus_per_task,
        gpus_per_task=gpus_per_task,
        limit=limit,
        fresh=fresh,
    )
    raise typer.Exit(results.run(options))


@app.command()
def leaderboard(
    suite: SuiteName,
    form: Format = "md",
    folder: Annotated[Path | None, typer.Option("-o", metavar="DIR", help="Write all formats there instead.")] = None,
    attacks_table: Annotated[
        bool, typer.Option("--attacks", help="The second table, a row an attack (csv, md).")
    ] = False,
    defenses: Defenses = None,
    output: Output = DEFAULT_OUTPUT,
    data_root: DataRoot = None,
) -> None:
    """Print the tables from the records there are, stored or released; the same to the byte every time."""
    from benchmark.commands import results

    options = _options(suite, defenses=defenses, output=output, data_root=data_root)
    raise typer.Exit(results.show_leaderboard(options, form, folder, attacks_table))


@app.command()
def records(
    suite: SuiteName,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv or parquet.")] = "csv",
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write there.")] = None,
    defenses: Defenses = None,
    output: Output = DEFAULT_OUTPUT,
    data_root: DataRoot = None,
) -> None:
    """Give everything that was measured, a row an image."""
    from benchmark.commands import results

    options = _options(suite, defenses=defenses, output=output, data_root=data_root)
    raise typer.Exit(results.show_records(options, form, file))


@app.command()
def export(
    suite: SuiteName,
    folder: Annotated[
        Path | None, typer.Option("-o", metavar="DIR", help="Where to.  [default: results/SUITE]")
    ] = None,
    defenses: Defenses = None,
    attacks: Attacks = None,
    output: Output = DEFAULT_OUTPUT,
    data_root: DataRoot = None,
) -> None:
    """Write a suite's records, manifest and tables for release, also of an unfinished run."""
    from benchmark.commands import results

    options = _options(suite, defenses=defenses, attacks=attacks, output=output, data_root=data_root)
    raise typer.Exit(results.export(options, folder))


@app.command()
def pictures(
    suite: SuiteName,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The PNG file to write.")],
    attack: Annotated[str | None, typer.Option("--attack", metavar="NAME", help="Only this attack's.")] = None,
    cut: Annotated[str | None, typer.Option("--cut", metavar="CUT", help="Only those at this cut.")] = None,
    output: Output = DEFAULT_OUTPUT,
    data_root: DataRoot = None,
) -> None:
    """Draw the private images and, under them, what each attack made of them."""
    from benchmark.commands.pictures import write_pictures

    raise typer.Exit(write_pictures(_options(suite, output=output, data_root=data_root), file, attack, cut))


@app.command()
def baseline(
    suite: SuiteName,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The baseline to write.")],
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure", help="Run the suite again with images moved by 1e-7, to measure tolerances."
        ),
    ] = True,
    defenses: Defenses = None,
    attacks: Attacks = None,
    output: Output = DEFAULT_OUTPUT,
    device: DeviceName = Device.AUTO,
    data_root: DataRoot = None,
    download: Download = False,
    workers: Workers = None,
    memory: Memory = 2.0,
    limit: Limit = None,
) -> None:
    """Run what is missing of a suite and write down what later runs are compared with."""
    from benchmark.commands import results

    options = _options(
        suite,
        defenses=defenses,
        attacks=attacks,
        output=output,
        device=device,
        data_root=data_root,
        download=download,
        workers=workers,
        memory=memory,
        limit=limit,
    )
    raise typer.Exit(results.baseline(options, file, measure))


@app.command()
def check(
    suite: SuiteName,
    file: Annotated[Path, typer.Option("--baseline", metavar="FILE", help="What `baseline` wrote.")],
    defenses: Defenses = None,
    attacks: Attacks = None,
    output: Output = DEFAULT_OUTPUT,
    device: DeviceName = Device.AUTO,
    data_root: DataRoot = None,
    download: Download = False,
    workers: Workers = None,
    memory: Memory = 2.0,
    limit: Limit = None,
    fresh: Fresh = False,
) -> None:
    """Run what is missing and compare with a baseline, cell by cell.

    Ends with 0 if nothing is worse, 1 if privacy or utility is, 2 if something could not be measured.
    """
    from benchmark.commands import results

    options = _options(
        suite,
        defenses=defenses,
        attacks=attacks,
        output=output,
        device=device,
        data_root=data_root,
        download=download,
        workers=workers,
        memory=memory,
        limit=limit,
        fresh=fresh,
    )
    try:
        code = results.check(options, file)
    except UserError:
        raise
    except Exception:
        # What broke was not measured; 1 would say that it got worse.
        traceback.print_exc()
        code = 2
    raise typer.Exit(code)


@app.command("list")
def list_(
    what: Annotated[Listed, typer.Argument(metavar="WHAT", help="suites, attacks, defenses, datasets or models.")],
    check: Annotated[bool, typer.Option("--check", help="Import every plug-in, to find the broken ones.")] = False,
) -> None:
    """List what there is, with one line each."""
    from benchmark.commands.listing import list_names

    raise typer.Exit(list_names(what.value, check=check))


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A name from a list, or path.py:Class.")]) -> None:
    """Show parameters, threat model and citation of an attack or defense, or what a suite runs."""
    from benchmark.commands.show import show as show_name

    raise typer.Exit(show_name(name))


@app.command()
def env(data_root: DataRoot = None) -> None:
    """Show what results made here depend on: versions, device, threads, data root."""
    from benchmark.commands.machine import show_environment

    raise typer.Exit(show_environment(data_root))


@app.command()
def new(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="defense or attack.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, my_defense.py.")],
) -> None:
    """Write a working, commented start of a defense or an attack."""
    from benchmark.scaffold import write_start

    print(write_start(kind.value, file))


@app.command()
def verify(
    spec: Annotated[
        str | None, typer.Argument(metavar="SPEC", help="path.py:Class:key=value, or a name.", show_default=False)
    ] = None,
    built_in: Annotated[bool, typer.Option("--all", help="Every built-in attack on its planted clients.")] = False,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="With --all, where the verdicts go.")] = Path(
        "results/planted.json"
    ),
) -> None:
    """Check a plug-in against the contract, and an attack on clients that hide nothing; say in words what is wrong."""
    from benchmark.commands.verdict import release_verdicts, show_verdict

    if (spec is None) is not built_in:
        raise UserError("verify: name one plug-in (a name, or path.py:Class), or give --all for the built-in attacks")
    raise typer.Exit(show_verdict(spec) if spec is not None else release_verdicts(file))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what the user can fix is one sentence and exit code 2."""
    try:
        app(args=arguments)
    except UserError as error:
        from rich.console import Console

        sentence = " ".join(str(error).split())
        Console(stderr=True).print(f"error: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # Whoever read our output has gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
