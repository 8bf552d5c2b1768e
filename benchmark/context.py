"""Where and for which suite cells are run, as plain values: what a driver hands to the processes that run them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmark.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunContext:
    """Everything a run needs that must not change an outcome beyond rounding.

    Attributes:
        suite, suite_digest: What the records are filed under.
        cache: Folder of trained victims and of the classifiers that read reconstructions.
        data_root: Folder of the data sets, or None for the environment's.
        device: `cpu`, `cuda` or `auto`.
        memory: Bytes an attack's tensors may take at once.
        perturbation: Standard deviation of noise added to every image; 1e-7 stands for another CPU's rounding, to
            measure what that moves. Such records and victims belong in a store and cache of their own.
        verdicts: What came of the attacks' planted clients (`benchmark.planted_verdicts.Verdict` as JSON) by verdict
            key. None lets `run_plan` find or measure them. Records of an attack without one are flagged.
        images: Folder that keeps the reconstructions that were scored, a file a cell, or None to keep none.
    """

    suite: str
    suite_digest: str
    cache: str
    data_root: str | None = None
    device: str = "cpu"
    memory: int = 2 * 1024**3
    perturbation: float = 0.0
    images: str | None = None
    verdicts: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The context as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunContext:
        """The context that `to_json` wrote."""
        return cls(**value)


def chosen_device(name: str) -> torch.device:
    """The device called `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    # Imported late: where nothing is left to run, nothing needs a tensor.
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no CUDA device that torch can use; choose cpu or auto")
    return device
