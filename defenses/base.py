"""What a defense is: a class with optional hooks at every place where data leaves the client.

A defense is one file with one class. It sets `name` and `version`, cites its source in its docstring, declares its
parameters as typed, bounded fields and overrides the hooks it needs; a hook that is not overridden does
nothing. Hooks get tensors on the run's device and a stream of random numbers (`rng`) of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PrivateAttr
from torch import Tensor, nn

from benchmark.parameters import Configured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmark.data import Part
    from benchmark.models import Split
    from benchmark.protocol import Training
    from benchmark.seeds import Rng

Phase = Literal["training", "inference"]
Side = Literal["none", "activations", "weights", "labels", "architecture"]
PrivacyView = Literal["activations", "weights", "labels"]


@dataclass(frozen=True)
class PrivacyStatement:
    """A claim of differential privacy for one view of the server.

    Attributes:
        view: What the claim is about: the activations sent, the released weights or the labels.
        epsilon: The bound, at least 0; None where the mechanism ran but the number would not be valid.
        delta: The failure probability, in [0, 1).
        unit: What one neighbouring change is, for example "record" or "one release of one activation".
        adjacency: "add-remove" or "replace-one".
        accountant: How epsilon was computed, for example "opacus prv" or "analytic gaussian".
        releases: How often one unit is released under this claim.
        why_invalid: One sentence where `epsilon` is None: why no number can be stated.
    """

    view: PrivacyView
    epsilon: float | None
    delta: float
    unit: str
    adjacency: Literal["add-remove", "replace-one"]
    accountant: str
    releases: int = 1
    why_invalid: str | None = None


class Defense(Configured):
    """Base of all defenses. Override the hooks you need; each says when it is called and what it must return.

    Attributes:
        side: Which family the defense belongs to; shown in the leaderboard.
        per_sample: True where the guarantee needs every sample's gradient to depend on that sample alone (DP-SGD);
            such a defense is not combined with one that couples samples or adds to the client's loss.
        state: Tensors the defense learned or measured while training (a running norm, a learned mask); saved
            with the victim and restored before inference. Keys are yours.
        reached: Numbers worth showing beside the row (for example a noise-to-RMS ratio); floats.
    """

    side: ClassVar[Side]
    per_sample: ClassVar[bool] = False

    _state: dict[str, Tensor] = PrivateAttr(default_factory=dict)

    @property
    def couples_samples(self) -> bool:
        """Whether a training hook's result for one sample depends on other samples.

        DP-SGD refuses to be combined with such a defense, because per-sample clipping no longer bounds influence.
        Where it does not depend on parameters, set it as `couples_samples: ClassVar[bool] = True`.
        """
        return False

    @property
    def state(self) -> dict[str, Tensor]:
        """Tensors that belong to the trained defense, saved and restored with the victim."""
        return self._state

    def moved_cut(self, cut: str, cuts: Sequence[str]) -> str:
        """The cut that is really used when `cut` is asked for; called by the plan, before anything is trained.

        Args:
            cut: The cut asked for.
            cuts: All cuts of the model, shallowest first.
        """
        return cut

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Change the architecture or learn something before training starts; called once. Returns the split to train.

        Args:
            split: Head, body and tail with their initial weights.
            data: The victim's training part, images in [0, 1].
        """
        return split

    def protect_labels(self, y: Tensor, n_classes: int, rng: Rng) -> Tensor:
        """Labels (int64, [n]) to train with instead of `y`; called once for the whole training part."""
        return y

    def protect_inputs(self, x: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """Images ([batch, channels, height, width]) to feed to the head instead of `x`; same shape."""
        return x

    def client_loss(self, x: Tensor, z: Tensor, y: Tensor, step: int) -> Tensor | None:
        """A term (scalar) the client adds to its loss, or None; `z` is the head's output before protection.

        `y` are the labels in the u-shaped topology and in the vanilla one alike: the client owns its data.
        """
        return None

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """What leaves the client instead of `z` ([batch, ...]); same shape and device, finite."""
        return z

    def protect_gradients(self, g: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """What the label owner sends back instead of the cut gradient `g` ([batch, ...]); u-shaped topology only.

        Row i of `g` is the gradient of the batch's loss with respect to sample i; the loss is the batch's mean, or
        under DP-SGD its sum.
        """
        return g

    def privatise(self, training: Training) -> Training:
        """Wrap modules and optimisers (DP-SGD); called once, after `prepare` and before the first step.

        Change `training` in place and return it: defenses that came before may keep a reference to it.
        """
        return training

    def attacker_model(self) -> nn.Module | None:
        """A differentiable stand-in for `protect_activations` that aware attackers may try as well."""
        return None

    def privacy(self) -> Sequence[PrivacyStatement]:
        """Claims of differential privacy, after training; empty where nothing is claimed."""
        return ()

    @property
    def reached(self) -> dict[str, float]:
        """Numbers measured while training that belong beside the row."""
        return {}

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Whether this class does something of its own at `hook`."""
        return getattr(cls, hook) is not getattr(Defense, hook)
