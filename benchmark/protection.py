"""A list of defenses applied in order, each hook's result checked against the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.errors import PluginError, UserError
from benchmark.finite import all_finite

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split
    from benchmark.protocol import Training
    from benchmark.seeds import Rng
    from defenses.base import Defense, Phase, PrivacyStatement


class Protection:
    """The client's defenses, in order, with a stream of random numbers for each.

    Args:
        defenses: Applied first to last at every hook.
        rng: Named by victim; each defense draws from streams of its own below it, one a hook, so that adding a
            defense does not change the draws of another.
    """

    def __init__(self, defenses: Sequence[Defense], rng: Rng) -> None:
        self.defenses = tuple(defenses)
        self._rng = rng
        self._streams: dict[tuple[int, str], Rng] = {}

    def _stream(self, index: int, hook: str) -> Rng:
        if (index, hook) not in self._streams:
            self._streams[index, hook] = self._rng.child("defense", index, hook)
        return self._streams[index, hook]

    def restarted(self, *name: object) -> Protection:
        """The same defenses with fresh streams named below this one's; for example one for each set of queries."""
        return Protection(self.defenses, self._rng.child(*name))

    def apart(self) -> list[Protection]:
        """One protection for each defense, in order, with fresh streams named below this one's."""
        return [Protection((defense,), self._rng.child("apart", at)) for at, defense in enumerate(self.defenses)]

    def prepare(self, split: Split, data: Part) -> Split:
        """Let every defense change the split before training."""
        for index, defense in enumerate(self.defenses):
            split = defense.prepare(split, data, self._stream(index, "prepare"))
        return split

    def privatise(self, training: Training) -> Training:
        """Let every defense wrap modules and optimisers.

        Raises:
            UserError: A defense that works per sample (DP-SGD) stands beside one that couples samples.
            PluginError: A defense returned another object than it was given.
        """
        self._refuse_coupling()
        for defense in self.defenses:
            if defense.privatise(training) is not training:
                raise PluginError(
                    f"defense {defense.name}: privatise returned another object than the training it was given; "
                    "change that one in place and return it"
                )
        return training

    def _refuse_coupling(self) -> None:
        private = next((defense for defense in self.defenses if defense.per_sample), None)
        if private is None:
            return
        for other in self.defenses:
            if other.couples_samples:
                why = "makes one sample's gradient depend on other samples"
            elif other.overrides("client_loss"):
                why = "adds a second backward pass of its own through client_loss"
            else:
                continue
            raise UserError(
                f"defense {private.name} cannot stand beside {other.spec()}, which {why}, so that clipping per sample "
                "no longer bounds a sample's influence; evaluate them apart"
            )

    def labels(self, y: Tensor, n_classes: int) -> Tensor:
        """Labels to train with, [n], int64."""
        for index, defense in enumerate(self.defenses):
            after = defense.protect_labels(y, n_classes, self._stream(index, "labels"))
            _check(defense, "protect_labels", y, after, gradient=False)
            y = after
        return y

    def inputs(self, x: Tensor, phase: Phase) -> Tensor:
        """Images to feed to the head."""
        for index, defense in enumerate(self.defenses):
            after = defense.protect_inputs(x, self._stream(index, f"inputs {phase}"), phase)
            _check(defense, "protect_inputs", x, after, gradient=phase == "training")
            x = after
        return x

    def activations(self, z: Tensor, phase: Phase) -> Tensor:
        """Smashed data as they leave the client."""
        for index, defense in enumerate(self.defenses):
            after = defense.protect_activations(z, self._stream(index, f"activations {phase}"), phase)
            _check(defense, "protect_activations", z, after, gradient=phase == "training")
            if z.requires_grad and not after.requires_grad:
                raise PluginError(
                    f"defense {defense.name}: protect_activations returned a tensor that cuts the gradient off "
                    "(detach, no_grad), so that the head cannot be trained; use z + (result - z).detach()"
                )
            z = after
        return z

    def gradients(self, g: Tensor, y: Tensor) -> Tensor:
        """Cut gradient as it leaves the label owner."""
        for index, defense in enumerate(self.defenses):
            after = defense.protect_gradients(g, y, self._stream(index, "gradients"))
            _check(defense, "protect_gradients", g, after, gradient=False)
            g = after
        return g

    def client_loss(self, x: Tensor, z: Tensor, y: Tensor, step: int) -> Tensor | None:
        """Sum of the terms the defenses add to the client's loss, or None."""
        terms = [defense.client_loss(x, z, y, step) for defense in self.defenses]
        present = [term for term in terms if term is not None]
        return torch.stack(present).sum() if present else None

    def privacy(self) -> list[PrivacyStatement]:
        """All claims of differential privacy."""
        return [statement for defense in self.defenses for statement in defense.privacy()]

    def reached(self) -> dict[str, float]:
        """Numbers the defenses measured while training, keyed `name.key`."""
        return {f"{d.name}.{key}": value for d in self.defenses for key, value in d.reached.items()}


def _check(defense: Defense, hook: str, before: Tensor, after: object, *, gradient: bool = True) -> None:
    where = f"defense {defense.name}: {hook} returned"
    if not isinstance(after, Tensor):
        raise PluginError(f"{where} {type(after).__name__}; return a tensor of shape {tuple(before.shape)}")
    if after.shape != before.shape:
        raise PluginError(
            f"{where} shape {tuple(after.shape)} for shape {tuple(before.shape)}; keep the shape, "
            "or change the architecture in prepare"
        )
    if after.device != before.device:
        raise PluginError(f"{where} a tensor on {after.device}, the input is on {before.device}; keep the device")
    if after.dtype != before.dtype:
        raise PluginError(f"{where} type {after.dtype} for type {before.dtype}; keep the type")
    if not gradient and after.requires_grad and not before.requires_grad:
        raise PluginError(f"{where} a tensor that carries a gradient; detach it")
    if after.is_floating_point() and not all_finite(after):
        cause = "from finite values" if all_finite(before) else "because its input was not finite either"
        raise PluginError(f"{where} NaN or infinity {cause}; return finite numbers")
