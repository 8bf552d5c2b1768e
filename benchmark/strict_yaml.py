"""YAML read safely and without surprises: no duplicate keys, and only what looks like a number is one.

YAML 1.1, which PyYAML follows, reads `1e-3` as a text, `no` as false and `2024-01-01` as a date. Here plain scalars are
read by the core schema of YAML 1.2 (section 10.3.2): null, true, false, integers, floats, and otherwise text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from benchmark.errors import UserError

_CORE_SCHEMA = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
)


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2 that refuses a key given twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the safe loader's, but whole at once: what an alias puts inside itself is refused."""
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the safe loader's, refusing a key given twice."""
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} is given twice (first on line {seen[key]})", key_node.start_mark
                    )
                seen[key] = line
        return super().construct_mapping(node, deep=deep)


# Further types that a tag could ask for (dates, sets, binary data) have no place in a suite.
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: make for tag, make in _Loader.yaml_constructors.items() if tag is None or tag.rpartition(":")[2] in _PLAIN
}
for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def load_yaml(text: str, source: str) -> Any:
    """The value that a YAML text stands for.

    Args:
        text: One document.
        source: What to call it in an error, for example its file.

    Raises:
        UserError: Not valid YAML, or a key given twice; names `source` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{source}{line}: {error.problem or error.context}; correct the YAML") from None
    except RecursionError:
        raise UserError(f"{source}: lists or mappings stand too deep in one another; correct the YAML") from None
    except (yaml.YAMLError, ValueError, LookupError) as error:
        # Such as a number of thousands of digits, or `!!int x`, which the parser does not check.
        raise UserError(f"{source}: {' '.join(str(error).split())}; correct the YAML") from None
