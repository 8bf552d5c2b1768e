from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator
from torch import Tensor

from benchmark.errors import PluginError
from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split
    from benchmark.protocol import Training
    from benchmark.seeds import Rng

# Each batch counts a twentieth: after one epoch of 47 batches a tenth of the starting range is left.
_WEIGHT = 0.05
_FIRST_IMAGES = 256


class Quantisation(Defense):
    """Rounds each unit of the smashed data to one of 2^bits equally spaced values between `low` and `high`.

    z' = low + q (high - low) / (2^b - 1), q = round((clamp(z, low, high) - low) / (high - low) * (2^b - 1)): uniform
    affine quantisation as in Jacob et al. (2018, arXiv 1712.05877), eq. 12; of smashed data, with one bit: Pham et al.
    (2022), "Binarizing Split Learning for Data Privacy Enhancement and Computation Reduction" (arXiv 2206.04864), whose
    client layers are binary as well. Without `low` and `high` the range is calibrated as by Jacob et al., section
    3.1: an exponential average of each training batch's smallest and largest value, frozen at inference.

    The gradient passes straight through within the range and is zero outside of it (Bengio et al. 2013, arXiv
    1308.3432). Nothing is random, so that a second view of a sample adds nothing.
    """

    name: ClassVar[str] = "quantisation"
    side: ClassVar[Side] = "activations"

    bits: int = Field(2, ge=1, le=16, description="bits a unit is sent with")
    low: float | None = Field(None, description="lower end of the range; calibrated where neither end is given")
    high: float | None = Field(None, description="upper end of the range, above `low`")

    _in_training: bool = PrivateAttr(False)

    @field_validator("high")
    @classmethod
    def _a_range(cls, high: float | None, info: ValidationInfo) -> float | None:
        low = info.data.get("low")
        if "low" in info.data and (low is None) != (high is None):
            raise ValueError(f"stands beside low={low}; give both ends of the range, or neither to calibrate it")
        if low is not None and high is not None and not low < high:
            raise ValueError(f"is not above low={low}; give a range that is not empty")
        return high

    @property
    def couples_samples(self) -> bool:
        """Whether the range follows other samples of the batch."""
        return self.low is None

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Calibrate on the untrained head's output for the first 256 images; the split stays as it is."""
        if self.low is None:
            # A copy in evaluation mode: measuring must neither draw a dropout mask nor move a running mean.
            head = copy.deepcopy(split.head).eval()
            with torch.no_grad():
                self.state["range"] = _ends(head(data.images[:_FIRST_IMAGES]))
        return split

    def privatise(self, training: Training) -> Training:
        """Begin to follow the range; the training stays as it is."""
        # A defense restored with its victim never comes here: an attack that replays its training hook, phase and
        # all, must not move the range that the victim was trained with.
        self._in_training = True
        return training

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data, each unit rounded to the nearest value that can be sent."""
        if phase == "training" and self._in_training and self.low is None:
            self.state["range"] = self._range(z).lerp(_ends(z), _WEIGHT)
        low, high = self._range(z)
        inside = z.clamp(low, high)
        step = (high - low) / (2**self.bits - 1)
        rounded = low + ((inside - low) / step).round() * step
        sent: Tensor = inside + (rounded - inside).detach()
        return sent

    def _range(self, like: Tensor) -> Tensor:
        if self.low is not None:
            return like.new_tensor([self.low, self.high])
        if "range" not in self.state:
            raise PluginError(
                f"defense {self.name}: protect_activations was called before a range was calibrated; "
                "call prepare first, restore the defense's state, or give low and high"
            )
        return self.state["range"]

    @property
    def reached(self) -> dict[str, float]:
        """`low` and `high`, the ends of the calibrated range; nothing where they were given."""
        if "range" not in self.state:
            return {}
        low, high = self.state["range"].tolist()
        return {"low": low, "high": high}


def _ends(z: Tensor) -> Tensor:
    """Smallest and largest value, [2]; a little apart even where all units are equal."""
    low, high = z.detach().aminmax()
    least = torch.finfo(z.dtype).eps * low.abs().clamp_min(1.0)
    return torch.stack([low, torch.maximum(high, low + least)])
