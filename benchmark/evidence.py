"""What the harness finds out about the defended client and the data beside any attack.

Scores cannot tell a defense that works from one that only breaks attacks: noise that repeats, gradients that stop,
outputs that say nothing, auxiliary images that are the targets. Each of these is measured here, on the client itself,
and kept in `benchmark.record.Record.evidence` as plain JSON; `benchmark.flag_rules` judges it. Hooks are called on
deep copies with streams of their own: nothing that a defense learned or draws moves.

    sent        phase -> `Channel`: what leaves the client for images, by the hooks of that phase
    gradients   `Channel`: what the label owner sends back; null in the vanilla topology
    hooks       the hooks that the defenses override, sorted
    watched     whether the server's view of training was kept, so that training-phase attacks were possible
    n_records, n_auxiliary, n_test, n_targets    samples of each part of the data, and targets of the cell
    targets_in_auxiliary    targets that also stand among the auxiliary images, pixel for pixel at 8 bits
    test_apart, targets_apart    `benchmark.treated_apart.treated_apart` of test images, and of the targets in their
                phase, beside auxiliary images; null where a hook broke its contract
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.cell import TRAINING_HOOKS
from benchmark.errors import PluginError
from benchmark.finite import all_finite
from benchmark.seeds import Rng
from benchmark.treated_apart import treated_apart

if TYPE_CHECKING:
    from benchmark.data import Dataset, Part
    from benchmark.protection import Protection
    from benchmark.victim import Victim
    from defenses.base import Phase

Gradient = Literal["flows", "zero", "none", "not finite"]

IMAGES = 16
PHASES: tuple[Phase, ...] = ("inference", "training")
# The same image in two rows of a batch: below this, relative to what is sent, the rows differ by rounding alone.
ROUNDING = 1e-4
# The less an attacker can do with it, the later it stands.
GRADIENTS: tuple[Gradient, ...] = ("flows", "zero", "none", "not finite")


@dataclass(frozen=True)
class Channel:
    """What one place where data leave a party looks like to who watches it.

    Attributes:
        finite: Whether all numbers are; where not, nothing else is known.
        random: Whether two queries of the same images, one after the other, are answered differently.
        frozen: Whether there is randomness that two queries share: nothing changes from one to the next, but another
            stream, or for images another row of the same batch, shows other noise on the same image.
        constant: Whether all images are answered alike, bit by bit.
        inactive: Whether what is sent is bit-identical to what would be sent without the defense.
        gradient: Whether an attacker can differentiate through the hooks: `flows`, `zero` everywhere, `none` (cut off),
            or `not finite`; null for the gradients a label owner sends.
        distortion: Root mean square of what the defense changes, over that of what it is given, at least 0; null where
            that is 0.
        problem: Which hook broke its contract and how, one sentence, or null.
    """

    finite: bool
    random: bool = False
    frozen: bool = False
    constant: bool = False
    inactive: bool = False
    gradient: Gradient | None = None
    distortion: float | None = None
    problem: str | None = None


def client_evidence(victim: Victim, dataset: Dataset) -> dict[str, Any]:
    """Facts about a defended client, from the first test images; the same for all attacks on it.

    Call it before anything else has used the victim's defenses: what a hook draws once and keeps would look like
    something that it learned.

    Args:
        victim: On any device; not changed.
        dataset: Whose test part gives the images.
    """
    probe = dataset.test.select(torch.arange(min(IMAGES, len(dataset.test)), device="cpu")).to(victim.device)
    overridden = {hook for defense in victim.protection.defenses for hook in TRAINING_HOOKS if defense.overrides(hook)}
    gradients = None if victim.split.tail is None else asdict(_gradients(victim, probe))
    return {
        "sent": {phase: asdict(_sent(victim, probe.images, phase)) for phase in PHASES},
        "gradients": gradients,
        "hooks": sorted(overridden),
        "watched": victim.seen is not None,
        "test_apart": _apart(victim, _first_of_each(dataset.test), dataset, "inference"),
    }


def target_evidence(victim: Victim, dataset: Dataset, targets: Part, phase: Phase) -> dict[str, Any]:
    """Facts about the images that a cell was scored on.

    Args:
        victim: On any device; not changed.
        dataset: All its parts.
        targets: The private images under attack.
        phase: When the server saw them.
    """
    auxiliary = _pictures(dataset)
    return {
        "n_records": len(dataset.victim),
        "n_auxiliary": len(dataset.auxiliary),
        "n_test": len(dataset.test),
        "n_targets": len(targets),
        "targets_in_auxiliary": sum(picture in auxiliary for picture in _bytes(targets)),
        "targets_apart": _apart(victim, targets, dataset, phase),
    }


def _first_of_each(part: Part) -> Part:
    """About four times as many images as are probed, of each class alike."""
    labels = part.labels.unique()
    wanted = max(1, 4 * IMAGES // len(labels))
    return part.select(torch.cat([(part.labels == label).nonzero().flatten()[:wanted] for label in labels]))


def _apart(victim: Victim, judged: Part, dataset: Dataset, phase: Phase) -> dict[str, float] | None:
    try:
        return treated_apart(victim, judged, dataset.auxiliary, phase)
    except PluginError:
        return None


def _sent(victim: Victim, images: Tensor, phase: Phase) -> Channel:
    def send(protection: Protection, rows: Tensor) -> Tensor:
        return protection.activations(victim.split.head(protection.inputs(images[rows], phase)), phase)

    with torch.no_grad():
        own = victim.split.head(images)
    channel = _channel(_Streams(victim, phase), send, own)
    if not channel.finite:
        return channel
    rows = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    hidden = not channel.random and _rows_differ(lambda: send(_Streams(victim, phase)(0), rows))
    return replace(channel, frozen=channel.frozen or hidden, gradient=_gradient(victim, images, phase))


def _gradients(victim: Victim, probe: Part) -> Channel:
    assert victim.split.tail is not None
    with torch.enable_grad():
        at_client = victim.split.body(victim.split.head(probe.images)).detach().requires_grad_(True)
        (own,) = torch.autograd.grad(F.cross_entropy(victim.split.tail(at_client), probe.labels), at_client)
    return _channel(
        _Streams(victim, "gradients"),
        lambda protection, rows: protection.gradients(own[rows], probe.labels[rows]),
        own,
    )


@dataclass(frozen=True)
class _Streams:
    """Untouched copies of a victim's defenses, each call's with a stream of its own."""

    victim: Victim
    name: str

    def __call__(self, stream: int) -> Protection:
        return copy.deepcopy(self.victim.protection).restarted("evidence", self.name, stream)


def _channel(fresh: _Streams, send: Callable[[Protection, Tensor], Tensor], own: Tensor) -> Channel:
    rows = torch.arange(len(own), device=own.device)
    try:
        with torch.no_grad():
            one = fresh(0)
            first, second = send(one, rows), send(one, rows)
            other = send(fresh(1), rows)
    except PluginError as error:
        return Channel(finite=False, problem=str(error))
    if not all_finite(first):
        return Channel(finite=False)
    random = not torch.equal(first, second)
    scale = float(own.square().mean().sqrt())
    return Channel(
        finite=True,
        random=random,
        frozen=not random and not torch.equal(first, other),
        constant=bool((first == first[:1]).all()),
        inactive=torch.equal(first, own),
        distortion=float((first - own).square().mean().sqrt()) / scale if scale > 0 else None,
    )


def _rows_differ(send_twins: Callable[[], Tensor]) -> bool:
    """Whether most rows of a batch differ from its first beyond rounding, although all are the same image."""
    try:
        with torch.no_grad():
            flat = send_twins().flatten(1)
    except PluginError:
        # A hook that works on differences within a batch may refuse a batch without any.
        return False
    apart = (flat - flat[:1]).square().mean(dim=1).sqrt()
    return bool((apart[1:] > ROUNDING * flat[0].square().mean().sqrt()).float().mean() > 0.5)


def _gradient(victim: Victim, images: Tensor, phase: Phase) -> Gradient:
    """Through the hooks alone: the head is the same with and without a defense."""
    fresh = _Streams(victim, phase)
    with torch.no_grad():
        own = victim.split.head(fresh(2).inputs(images, phase))
    through = (
        _backward(lambda x: fresh(2).inputs(x, phase), images),
        _backward(lambda z: fresh(2).activations(z, phase), own),
    )
    return max(through, key=GRADIENTS.index)


def _backward(hook: Callable[[Tensor], Tensor], at: Tensor) -> Gradient:
    leaf = at.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        try:
            out = hook(leaf)
        except (PluginError, RuntimeError):
            # Without a gradient the same hook has answered: what it refuses is the gradient.
            return "none"
        if not out.requires_grad:
            return "none"
        cotangent = Rng("evidence", "cotangent").normal_like(out)
        (found,) = torch.autograd.grad(out, leaf, cotangent, allow_unused=True)
    if found is None:
        return "none"
    if not all_finite(found):
        return "not finite"
    return "flows" if found.any() else "zero"


@lru_cache(maxsize=2)
def _pictures(dataset: Dataset) -> frozenset[bytes]:
    return frozenset(_bytes(dataset.auxiliary))


def _bytes(part: Part) -> list[bytes]:
    pixels = (part.images * 255).round().to(torch.uint8).cpu().numpy()
    return [image.tobytes() for image in pixels]
