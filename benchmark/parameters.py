"""Typed, bounded, documented parameters: declared once, used for validation, help, cards and keys."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.errors import UserError


class Configured(BaseModel):
    """A plug-in with parameters.

    A subclass sets `name` and `version` and declares each parameter as an annotated field with bounds and a
    description, for example `sigma: float = Field(1.0, ge=0, description="standard deviation of the noise")`.
    Instances are immutable; two with the same parameters are equal.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True, validate_default=True
    )

    name: ClassVar[str]
    version: ClassVar[int] = 1

    @classmethod
    def configured(cls, parameters: dict[str, Any]) -> Self:
        """Build an instance, or raise `UserError` with one sentence that names plug-in, key, value and remedy."""
        try:
            return cls(**parameters)
        except ValidationError as error:
            raise UserError("; ".join(_sentence(cls, item) for item in error.errors())) from None

    def parameters(self) -> dict[str, Any]:
        """Every parameter, defaults included, as JSON values."""
        return self.model_dump(mode="json")

    def changed_parameters(self) -> dict[str, Any]:
        """The parameters that differ from their defaults, as JSON values, in the order of declaration."""
        fields = type(self).model_fields
        return {
            key: value
            for key, value in self.parameters().items()
            if fields[key].is_required() or getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }

    def spec(self) -> str:
        """The canonical way to write this instance, `name:key=value,key=value`, defaults left out."""
        return spec_text(self.name, self.changed_parameters())


def spec_text(name: str, parameters: dict[str, Any]) -> str:
    """`name:key=value,...` with values in JSON where they are not plain words."""
    pairs = [f"{key}={_value_text(value)}" for key, value in parameters.items()]
    return name + (":" + ",".join(pairs) if pairs else "")


def _value_text(value: Any) -> str:
    # Words that would be read back as something else than a text are written with quotes.
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_/][\w./-]*", value, re.ASCII)
    if plain and value.lower() not in ("true", "false", "null", "nan", "infinity"):
        return str(value)
    return json.dumps(value)


def nearest(word: str, allowed: list[str]) -> str:
    """`; did you mean 'x'?` where one of `allowed` is close to `word`, otherwise an empty text."""
    close = difflib.get_close_matches(word, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _sentence(cls: type[Configured], item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "parameters"
    if item["type"] == "extra_forbidden":
        allowed = sorted(cls.model_fields)
        listed = ", ".join(allowed) if allowed else "none"
        return f"{cls.name} has no parameter {key!r} (it has: {listed}){nearest(key, allowed)}"
    if item["type"] == "missing":
        return f"{cls.name} needs parameter {key!r}; write {cls.name}:{key}=..."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{cls.name}: parameter {key}={item['input']!r} {message}"
