from __future__ import annotations

from typing import ClassVar

from defenses.base import Defense, Side


class NoDefense(Defense):
    """No defense: the client sends its smashed data as they are. The row every other row is compared with.

    Split learning as proposed: Gupta and Raskar (2018), "Distributed learning of deep neural network over multiple
    agents", Journal of Network and Computer Applications.
    """

    name: ClassVar[str] = "none"
    side: ClassVar[Side] = "none"
