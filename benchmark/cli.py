"""The command line: parses, and calls `benchmark.commands`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.errors import UserError
from benchmark.options import MEASURING, READING, DataRoot, Options, takes

app = typer.Typer(
    help="Judges defenses for split learning by the attacks they must survive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="md, csv, tex, json or html.")]


@app.command()
@takes(*MEASURING, "executor", "address", "cpus_per_task", "gpus_per_task", "fresh")
def run(options: Options) -> None:
    """Run what is missing of a suite and print its leaderboard.

    Ends with 0 if every cell is done, 2 if some could not be measured.
    """
    from benchmark.commands import results

    raise typer.Exit(results.run(options))


@app.command()
@takes(*READING)
def leaderboard(
    options: Options,
    form: Format = "md",
    folder: Annotated[Path | None, typer.Option("-o", metavar="DIR", help="Write all formats there instead.")] = None,
    attacks_table: Annotated[
        bool, typer.Option("--attacks", help="The second table, a row an attack (csv, md).")
    ] = False,
) -> None:
    """Print the tables from the records there are, stored or released; the same to the byte every time."""
    from benchmark.commands import results

    raise typer.Exit(results.show_leaderboard(options, form, folder, attacks_table))


@app.command()
@takes(*READING)
def records(
    options: Options,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv or parquet.")] = "csv",
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write there.")] = None,
) -> None:
    """Give everything that was measured, a row an image."""
    from benchmark.commands import results

    raise typer.Exit(results.show_records(options, form, file))


@app.command()
@takes(*READING, "attacks")
def export(
    options: Options,
    folder: Annotated[
        Path | None, typer.Option("-o", metavar="DIR", help="Where to.", show_default="results/SUITE")
    ] = None,
) -> None:
    """Write a suite's records, manifest and tables for release, also of an unfinished run."""
    from benchmark.commands import results

    raise typer.Exit(results.export(options, folder))


@app.command()
@takes("output", "data_root")
def pictures(
    options: Options,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The PNG file to write.")],
    attack: Annotated[str | None, typer.Option("--attack", metavar="NAME", help="Only this attack's.")] = None,
    cut: Annotated[str | None, typer.Option("--cut", metavar="CUT", help="Only those at this cut.")] = None,
) -> None:
    """Draw the private images and, under them, what each attack made of them."""
    from benchmark.commands.pictures import write_pictures

    raise typer.Exit(write_pictures(options, file, attack, cut))


@app.command()
@takes("output", "data_root")
def gallery(
    options: Options,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The PNG file to write.")],
    attacks: Annotated[
        list[str] | None, typer.Option("--attack", metavar="SPEC", help="Only this attack's, as the suite writes it.")
    ] = None,
) -> None:
    """Draw what attacks made of the private images at every cut, a sheet for each data set and kind of victim."""
    from benchmark.commands.figures import write_gallery

    raise typer.Exit(write_gallery(options, file, attacks or ()))


@app.command()
@takes(*READING)
def depth(
    options: Options,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The SVG file to write.")],
) -> None:
    """Draw leakage and the accuracy of stolen heads against the depth of the cut."""
    from benchmark.commands.figures import write_depth

    raise typer.Exit(write_depth(options, file))


@app.command()
@takes(*MEASURING)
def baseline(
    options: Options,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The baseline to write.")],
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure", help="Run the suite again with images moved by 1e-7, to measure tolerances."
        ),
    ] = True,
) -> None:
    """Run what is missing of a suite and write down what later runs are compared with."""
    from benchmark.commands import results

    raise typer.Exit(results.baseline(options, file, measure))


@app.command()
@takes(*MEASURING, "fresh")
def check(
    options: Options,
    file: Annotated[Path, typer.Option("--baseline", metavar="FILE", help="What `baseline` wrote.")],
) -> None:
    """Run what is missing and compare with a baseline, cell by cell.

    Ends with 0 if nothing is worse, 1 if privacy or utility is, 2 if something could not be measured.
    """
    from benchmark.commands import results

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
    what: Annotated[
        Literal["suites", "attacks", "defenses", "datasets", "models"],
        typer.Argument(metavar="WHAT", help="suites, attacks, defenses, datasets or models."),
    ],
    check: Annotated[bool, typer.Option("--check", help="Import every plug-in, to find the broken ones.")] = False,
) -> None:
    """List what there is, with one line each."""
    from benchmark.commands.listing import list_names

    raise typer.Exit(list_names(what, check=check))


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A name from a list, or path.py:Class.")]) -> None:
    """Show parameters, threat model and citation of an attack or defense, or what a suite runs."""
    from benchmark.commands.show import show as show_name

    raise typer.Exit(show_name(name))


@app.command()
def speed(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="LINE", help="Only this line of the table; may be repeated.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Write the table there too, into its marked part.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="PATH", help="Checkout of the published code to compare with."),
    ] = None,
    data_root: DataRoot = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Turns of each program that count.")] = 5,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes of one thread.", show_default="one a core")
    ] = None,
) -> None:
    """Measure the speed of this machine and version, side by side with the published loop; ten minutes."""
    from benchmark.commands import speed as measuring

    raise typer.Exit(measuring.speed(measuring.Asked(tuple(only or ()), file, reference, data_root, repeats, workers)))


@app.command()
def env(data_root: DataRoot = None) -> None:
    """Show what results made here depend on: versions, device, threads, data root."""
    from benchmark.commands.machine import show_environment

    raise typer.Exit(show_environment(data_root))


@app.command()
def new(
    kind: Annotated[Literal["defense", "attack"], typer.Argument(metavar="KIND", help="What to start.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, my_defense.py.")],
) -> None:
    """Write a working, commented start of a defense or an attack."""
    from benchmark.scaffold import write_start

    print(write_start(kind, file))


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
