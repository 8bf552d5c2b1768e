"""The table of speed as Markdown, and the page that it is a part of."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import UserError
from benchmark.speed.line import Measured

BEGIN = "<!-- measured: begin. Written by `unsplit-bench speed -o`; do not edit. -->"
END = "<!-- measured: end -->"


def table(measured: Sequence[Measured], machine: Sequence[tuple[str, str]], loop: str) -> str:
    """The generated part: the machine, the table and what else is to be told of each line.

    Args:
        measured: In the order of the table.
        machine: Name and value of what the numbers depend on.
        loop: Which loop was compared with.
    """
    rows = [
        (one.line.name, one.line.what, one.line.against, one.number(), one.line.demand(), one.verdict())
        for one in measured
    ]
    lines = [
        f"Compared with: the {loop}. Medians, with minimum and maximum.",
        "",
        *_rows(("line", "what", "against", "measured", "floor", "met here"), rows),
        "",
        *_rows(("machine", ""), machine),
        "",
    ]
    for one in measured:
        lines += [f"- `{one.line.name}`: {' '.join(one.facts)}"]
    return "\n".join(lines) + "\n"


def written_into(page: str, text: str, name: str) -> str:
    """The page with its generated part replaced, and all else as it was.

    Args:
        page: What the file holds; empty for a new one.
        text: The generated part.
        name: The file's, for messages.

    Raises:
        UserError: The page has no place for it, or several.
    """
    if not page:
        return f"{BEGIN}\n\n{text}\n{END}\n"
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise UserError(f"-o {name}: the file has no place for the table; give another name, or add {BEGIN} and {END}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in cells]
