from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from benchmark.errors import UserError
from benchmark.parameters import nearest
from defenses.base import Defense, Side


class DeeperSplit(Defense):
    """Moves the cut deeper: the client computes more layers, and what it sends is further from the image.

    He, Zhang and Lee (2019), "Model Inversion Attacks Against Collaborative Inference", ACSAC, where inversion gets
    worse with depth. It competes at the cut that was asked for, with the weights of the undefended victim, and pays in
    the client's computation. Deeper is not safer against an attacker who may query the client: see `inverse_decoder`.
    """

    name: ClassVar[str] = "deeper_split"
    side: ClassVar[Side] = "architecture"

    to: str = Field(
        min_length=1, description="name of the head's last module, deeper than the cut asked for", examples=["fc1"]
    )

    def moved_cut(self, cut: str, cuts: Sequence[str]) -> str:
        """The cut `to`.

        Raises:
            UserError: It does not exist or is not deeper than `cut`; names the cuts that are.
        """
        deeper = list(cuts)[list(cuts).index(cut) + 1 :]
        if self.to in deeper:
            return self.to
        remedy = f"choose one of: {', '.join(deeper)}" if deeper else "there is none; ask for a shallower cut"
        what = f"is not deeper than the cut {cut!r}" if self.to in cuts else "does not exist in this model"
        raise UserError(f"defense deeper_split: parameter to={self.to!r} {what}; {remedy}{nearest(self.to, deeper)}")
