from __future__ import annotations

from typing import ClassVar

from defenses.base import Defense, Side


class NoDefense(Defense):
    """No defense: the client sends its smashed data as they are. The row every other row is compared with."""

    name: ClassVar[str] = "none"
    side: ClassVar[Side] = "none"
