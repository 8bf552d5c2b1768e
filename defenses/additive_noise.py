"""What defenses that add independent noise to smashed data share; they differ in the noise's distribution alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from defenses import running_rms
from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.data import Part
    from benchmark.models import Split
    from benchmark.protocol import Training
    from benchmark.seeds import Rng


class AdditiveNoise(Defense):
    """Base of `gaussian_noise` and `laplace_noise`: z + s n, with fresh n of standard deviation 1 for every unit.

    The standard deviation s is `sigma`, or `relative` times the running RMS of the smashed data.
    """

    side: ClassVar[Side] = "activations"

    sigma: float | None = Field(
        None, ge=0, description="standard deviation of the noise, in units of the smashed data; instead of `relative`"
    )
    relative: float | None = Field(
        0.5, ge=0, description="standard deviation of the noise over the running RMS of the smashed data"
    )
    phases: Literal["both", "training", "inference"] = Field("both", description="when noise is added")

    _in_training: bool = PrivateAttr(False)

    @model_validator(mode="before")
    @classmethod
    def _sigma_replaces_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("sigma") is not None:
            return {"relative": None, **values}
        return values

    @field_validator("relative")
    @classmethod
    def _exactly_one(cls, relative: float | None, info: ValidationInfo) -> float | None:
        sigma = info.data.get("sigma")
        if relative is not None and sigma is not None:
            raise ValueError(
                f"cannot stand beside sigma={sigma}; give sigma (absolute) or relative (times the RMS of the "
                "smashed data), not both"
            )
        if relative is None and sigma is None and "sigma" in info.data:
            raise ValueError("leaves no noise level; give sigma (absolute) or relative (times the RMS)")
        return relative

    def changed_parameters(self) -> dict[str, Any]:
        """As for every plug-in; that `sigma` takes the place of `relative` needs no saying."""
        changed = super().changed_parameters()
        return {key: value for key, value in changed.items() if value is not None}

    @property
    def couples_samples(self) -> bool:
        """Whether training noise is scaled by an RMS that other samples took part in."""
        return self.relative is not None and self.phases != "inference"

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Measure the untrained head's RMS; the split stays as it is."""
        running_rms.start(self.state, split, data)
        return split

    def privatise(self, training: Training) -> Training:
        """Begin to follow the RMS; the training stays as it is."""
        # A defense restored with its victim never comes here: an attack that replays its training hook, phase and
        # all, must not move what the victim was measured with.
        self._in_training = True
        return training

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data plus noise, in the phases that `phases` names."""
        if phase == "training" and self._in_training:
            running_rms.follow(self.state, z)
        if self.phases not in ("both", phase):
            return z
        return z + self._standard_deviation() * self.standard_noise(z, rng)

    @abstractmethod
    def standard_noise(self, like: Tensor, rng: Rng) -> Tensor:
        """Independent noise of mean 0 and standard deviation 1, with shape, type and device of `like`."""

    @property
    def reached(self) -> dict[str, float]:
        """`sigma`, and `noise_to_rms`: sigma over the running RMS; nothing before the RMS was measured."""
        if running_rms.KEY not in self.state:
            return {}
        sigma, rms = float(self._standard_deviation()), float(running_rms.rms(self.state, self.name))
        # Smashed data that are all zero have no ratio to anything.
        return {"sigma": sigma, **({"noise_to_rms": sigma / rms} if rms > 0 else {})}

    def _standard_deviation(self) -> Tensor | float:
        if self.sigma is not None:
            return self.sigma
        assert self.relative is not None
        return running_rms.rms(self.state, self.name) * self.relative
