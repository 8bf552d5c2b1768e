"""Writes a working, commented start of a defense or an attack."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Literal

from benchmark.errors import UserError

_DEFENSE = '''\
from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side


class {cls}(Defense):
    """Shrinks the smashed data of each sample to a given norm, then adds noise.

    Own work. (Say what it does in one line above; here, cite authors, year and equation.)
    """

    # Its name on the command line and in every table. Raise `version` when a change of yours should make old
    # results void although the code of this file is the same.
    name: ClassVar[str] = "{name}"
    version: ClassVar[int] = 1
    # The family it belongs to: "activations", "weights", "labels" or "architecture".
    side: ClassVar[Side] = "activations"

    # Parameters are typed and bounded; the description says what they are and their unit. They are set as
    # {file}:{cls}:strength=0.5,norm=2
    strength: float = Field(0.1, ge=0, description="standard deviation of the noise, over the root mean square sent")
    norm: float = Field(10.0, gt=0, description="largest Euclidean norm of a sample's smashed data")

    def protect_activations(self, z: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """The smashed data that leave the client instead of `z`, [batch, ...]: same shape, type and device.

        Called whenever they leave, in training and at inference (`phase`). Do not write into `z`. Draw every random
        number from `rng`; make every tensor on the device of `z`.
        """
        norms = z.flatten(1).norm(dim=1).clamp_min(1e-12)
        shrunk = z * (self.norm / norms).clamp_max(1.0).view(-1, *[1] * (z.ndim - 1))
        scale = shrunk.detach().flatten(1).square().mean(dim=1).sqrt().view(-1, *[1] * (z.ndim - 1))
        return shrunk + self.strength * scale * rng.normal_like(z)

    # Other places where data leave the client; override what you need (see defenses/base.py):
    #   moved_cut            use another cut than the one asked for
    #   prepare              change the network before training, or measure something
    #   protect_labels       labels to train with instead of the true ones
    #   protect_inputs       images to feed to the head
    #   client_loss          a term the client adds to its loss
    #   protect_gradients    the cut gradient the label owner sends back (u-shaped topology)
    #   privatise            wrap optimisers (DP-SGD)
    #   privacy              claims of differential privacy
    # What is learned while training belongs in self.state, which is stored with the victim.
    #
    # If a hook's result for one sample depends on the others of its batch, say so:
    #   couples_samples: ClassVar[bool] = True
'''

_ATTACK = '''\
from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch.nn.functional import normalize

from attacks.base import Attack, Budget, Finding, Goal, Progress
from benchmark.view import Knowledge, Phase, ServerView, Topology


class {cls}(Attack):
    """Gives each target the label of the known sample whose gradients point most nearly the same way.

    Own work. (Say what it does in one line above; here, cite authors, year and equation.)
    """

    # Its name on the command line and in every table. Raise `version` when a change of yours should make old
    # results void although the code of this file is the same.
    name: ClassVar[str] = "{name}"
    version: ClassVar[int] = 1
    # What it answers: "reconstruct", "steal", "infer_labels".
    goals: ClassVar[tuple[Goal, ...]] = ("infer_labels",)
    # Where it cannot work everywhere, say so. Other things to say: stances (oblivious, aware, adaptive), role, and
    # planted, the parameters with which it recovers everything from clients that hide nothing (see attacks/base.py).
    phases: ClassVar[tuple[Phase, ...]] = ("training",)
    topologies: ClassVar[tuple[Topology, ...]] = ("u_shaped",)

    # Parameters are typed and bounded; the description says what they are and their unit. They are set as
    # {file}:{cls}:k=2
    k: int = Field(1, ge=1, description="known labels a class")

    def knowledge(self) -> frozenset[Knowledge]:
        """What must be granted beyond the protocol; the view raises on anything else."""
        return super().knowledge() | {{Knowledge.KNOWN_LABELS}}

    def known_labels_per_class(self) -> int:
        """How many labels a class it wants to know."""
        return self.k

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """One finding a view, in order; call `progress` with the done fraction.

        Never write into a view's tensors. Draw every random number from `view.rng(...)`; make every tensor on
        `view.device`.
        """
        findings = []
        for done, view in enumerate(views, start=1):
            known = view.known_labels
            assert view.cut_gradients is not None and known.cut_gradients is not None
            # [epochs, n, ...]: what was sent back for each of n targets, and for the samples whose labels are known.
            # Gradients of well fitted samples are so small that their squares vanish in float32.
            targets, samples = (
                normalize(gradients.double().flatten(2), dim=2, eps=1e-100)
                for gradients in (view.cut_gradients, known.cut_gradients)
            )
            # Cosines of every target with every sample, averaged over the epochs: noise averages out.
            alike = (targets @ samples.mT).mean(dim=0)
            findings.append(Finding(labels=known.labels[alike.argmax(dim=1)]))
            progress(done / len(views))
        return findings
'''

_STARTS = {"defense": _DEFENSE, "attack": _ATTACK}


def write_start(kind: Literal["defense", "attack"], file: Path) -> str:
    """Write a plug-in that works and keeps the contract, for its author to change.

    The attack is a simple one: it fails planted clients, and `verify` says where.

    Args:
        kind: Which.
        file: `my_defense.py`; its stem becomes the name, its CamelCase the class.

    Returns:
        What to do next, a few lines.

    Raises:
        UserError: The file exists, its name cannot be a plug-in's, or it cannot be written.
    """
    name = file.stem
    if file.suffix != ".py" or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"{file}: the name becomes the {kind}'s; write lower_case_with_underscores.py, my_{kind}.py")
    cls = "".join(part.capitalize() for part in name.split("_"))
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(_STARTS[kind].format(cls=cls, name=name, file=file.name))
    except FileExistsError:
        raise UserError(f"{file}: exists already and is left as it is; name another file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name a file in an existing folder") from None
    path = str(file) if file.is_absolute() else f"./{file}"
    return (
        f"{file} holds a working {kind}. Change it, then:\n"
        f"  unsplit-bench verify {path}:{cls}\n"
        f"  unsplit-bench run smoke-v1 --{kind} {path}:{cls}"
    )
