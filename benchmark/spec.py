"""How a plug-in and its parameters are written: `gaussian_noise:sigma=0.5`, `./mine.py:MyDefense:strength=2`.

On the command line defenses are composed with `+` (`a:x=1+b:y=2`); a suite may write a mapping instead
(`{gaussian_noise: {sigma: 0.5}}`) and composes with a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.errors import UserError

# A path ends with `.py`; then comes the class, unless what follows is already `key=value`.
_PATH = re.compile(r"(?P<target>[^=]*?\.py(?::[A-Za-z_]\w*(?=:|$))?)(?::(?P<parameters>.*))?", re.DOTALL)
_NAME = re.compile(r"(?P<target>[^:]*)(?::(?P<parameters>.*))?", re.DOTALL)
_KEY = re.compile(r"[A-Za-z_]\w*")
_OPENING = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True)
class Spec:
    """A plug-in as it was asked for.

    Attributes:
        target: A name, or `path.py:Class`, or `path.py` where the file holds one plug-in.
        parameters: What was set, not yet validated.
    """

    target: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_path(self) -> bool:
        """Whether it names a file."""
        return _PATH.fullmatch(self.target) is not None


def parse_spec(text: str) -> Spec:
    """Read one plug-in, `name:key=value,...` or `path.py:Class:key=value,...`.

    Values are JSON or YAML scalars; what holds a comma stands in quotes or brackets.

    Raises:
        UserError: It cannot be read; the sentence names the text and the part.
    """
    stripped = text.strip()
    match = _PATH.fullmatch(stripped) or _NAME.fullmatch(stripped)
    if match is None or not match["target"].strip():
        raise UserError(f"{text!r} names no plug-in; write name:key=value,... or path.py:Class:key=value,...")
    target = match["target"].strip()
    if match["parameters"] is None:
        return Spec(target)
    parameters: dict[str, Any] = {}
    for pair in _divided(match["parameters"], ",", text):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not _KEY.fullmatch(key):
            raise UserError(
                f"{text!r}: {pair.strip()!r} is not key=value; write {target}:key=value,key=value"
                f"{'' if target.endswith('.py') else ' or, for a class in a file, path.py:Class'}"
            )
        if not value:
            raise UserError(f'{text!r}: parameter {key!r} has no value; write {key}=value, or {key}="" for empty text')
        if key in parameters:
            raise UserError(f"{text!r}: parameter {key!r} is given twice; keep one")
        parameters[key] = _value(value, text)
    return Spec(target, parameters)


def parse_composed(text: str) -> tuple[Spec, ...]:
    """Read defenses joined by `+`, applied left to right.

    A `+` inside quotes, brackets or a number (`1e+5`) joins nothing.

    Raises:
        UserError: As `parse_spec`.
    """
    return tuple(parse_spec(part) for part in _divided(text, "+", text, before=re.compile(r"\s*[A-Za-z_./~]")))


def from_yaml(value: object) -> Spec:
    """Read one plug-in as a suite writes it: a text, or a mapping of its name to its parameters.

    Raises:
        UserError: It is neither.
    """
    if isinstance(value, str):
        return parse_spec(value)
    if isinstance(value, Mapping) and len(value) == 1:
        [(name, parameters)] = value.items()
        if isinstance(name, str) and (parameters is None or isinstance(parameters, Mapping)):
            spec = parse_spec(name)
            return Spec(spec.target, {**spec.parameters, **(parameters or {})})
    raise UserError(f"{value!r} names no plug-in; write 'name:key=value,...' or {{name: {{key: value}}}}")


def composed_from_yaml(value: object) -> tuple[Spec, ...]:
    """Read one entry of a suite's `defenses`: a plug-in, or a list of plug-ins applied in order.

    Raises:
        UserError: It is neither, or the list is empty.
    """
    if isinstance(value, list):
        if not value:
            raise UserError("an empty list composes nothing; write 'none' for no defense")
        return tuple(from_yaml(item) for item in value)
    return parse_composed(value) if isinstance(value, str) else (from_yaml(value),)


def _value(text: str, whole: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Imported late: names are listed without a YAML parser.
        from benchmark.strict_yaml import load_yaml

        return load_yaml(text, repr(whole))


def _divided(text: str, separator: str, whole: str, before: re.Pattern[str] | None = None) -> Iterator[str]:
    """Pieces between separators that stand outside quotes and brackets and, if given, before the pattern."""
    closing: list[str] = []
    quote, start, skip = "", 0, False
    for position, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = character == "\\" and quote == '"'
            quote = "" if character == quote else quote
        elif character in "\"'" and _opens_value(text, position):
            quote = character
        elif character in _OPENING:
            closing.append(_OPENING[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == separator and not closing and (before is None or before.match(text, position + 1)):
            yield text[start:position]
            start = position + 1
    if quote or closing:
        raise UserError(f"{whole!r}: {quote or closing[-1]!r} is missing at the end; close it")
    yield text[start:]


def _opens_value(text: str, position: int) -> bool:
    # An apostrophe inside a word is no quote: a quoted value starts right after one of these.
    preceding = text[:position].rstrip()
    return not preceding or preceding[-1] in "=,[{(:"
