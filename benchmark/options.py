"""What a user asks of a command, declared once: type, default, bounds, and what the command line says of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

Device = Literal["auto", "cpu", "cuda"]
ExecutorName = Literal["local", "inline", "ray"]


DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the data sets (else UNSPLIT_BENCH_DATA, else the cache).")
]


@dataclass(frozen=True)
class Options:
    """What the user asked for; the help of each option says what it is."""

    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name (see list suites) or .yaml file.")]
    defenses: Annotated[
        Sequence[str],
        typer.Option("--defense", metavar="SPEC", help="Add a defense: name:key=value, or path.py:Class; + composes."),
    ] = ()
    attacks: Annotated[
        Sequence[str],
        typer.Option("--attack", metavar="SPEC", help="Add an attack: name:key=value, or path.py:Class."),
    ] = ()
    output: Annotated[Path, typer.Option("--output", help="Folder of the store, victims, tables and logs.")] = Path(
        "unsplit-bench-out"
    )
    device: Annotated[Device, typer.Option("--device", help="Where tensors are.")] = "auto"
    data_root: DataRoot = None
    download: Annotated[bool, typer.Option("--download", help="Fetch data sets that are missing.")] = False
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Processes.", show_default="one a core; with OMP_NUM_THREADS threads each, fewer"
        ),
    ] = None
    memory: Annotated[float, typer.Option("--memory", min=0.05, help="GiB an attack's tensors may take at once.")] = 2.0
    executor: Annotated[
        ExecutorName, typer.Option("--executor", help="Child processes, this one, or a Ray cluster.")
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Ray cluster, auto or HOST:PORT.", show_default="RAY_ADDRESS, or one started here"
        ),
    ] = None
    cpus_per_task: Annotated[
        float | None, typer.Option("--cpus-per-task", help="CPUs of a Ray task.", show_default="1")
    ] = None
    gpus_per_task: Annotated[
        float | None, typer.Option("--gpus-per-task", help="GPUs of a Ray task, 0.25 to share one.")
    ] = None
    limit: Annotated[
        float | None, typer.Option("--limit", min=0.1, help="Seconds a cell may take.", show_default="the suite's")
    ] = None
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure also what comes with the installation as a released record.")
    ] = False


READING = ("defenses", "output", "data_root")
MEASURING = ("defenses", "attacks", "output", "device", "data_root", "download", "workers", "memory", "limit")


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the suite and the named options, as one `Options` before its own parameters.

    The command line reads a command's parameters off its signature: that of the new function has each option by itself.
    """
    chosen = ("suite", *names)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def parsed(**given: Any) -> None:
            asked: dict[str, Any] = {name: given.pop(name) for name in chosen}
            lists = {name: tuple(value) for name, value in asked.items() if isinstance(value, list)}
            command(Options(**(asked | lists)), **given)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = [*_declared(chosen), *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
        described = {
            "__name__": command.__name__,
            "__doc__": command.__doc__,
            "__signature__": inspect.Signature(parameters),
            "__annotations__": {one.name: one.annotation for one in parameters},
        }
        for attribute, value in described.items():
            setattr(parsed, attribute, value)
        return parsed

    return decorate


def _declared(names: Sequence[str]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(Options, include_extras=True)
    defaults = {
        field.name: inspect.Parameter.empty if field.default is MISSING else field.default for field in fields(Options)
    }
    for name in names:
        hint, default = hints[name], defaults[name]
        if default == ():
            # The command line knows of repeated options only as lists.
            hint, default = Annotated[list[str], *hint.__metadata__], []
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
