"""What a defense does, tried on real digits in both topologies."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from benchmark import registry
from benchmark.cell import PluginRef
from benchmark.contract import ground
from benchmark.contract.check import BrokenContractError, Check, tried, undisturbed
from benchmark.contract.ground import SETTINGS, Setting
from benchmark.models import cuts, network
from benchmark.protection import Protection
from benchmark.seeds import Rng
from benchmark.view import Phase

_NO_DEVICE = "a tensor was made without device=; write torch.zeros(..., device=z.device) or rng.normal_like(z)"
_STRAIGHT = "the head learns nothing; let it through, for example straight: z + (result - z).detach()"
_HOOKS = ("protect_inputs", "protect_activations", "protect_gradients")


def defense_checks(ref: PluginRef) -> Iterator[Check]:
    """Every hook, training and restoring, in both topologies."""
    yield tried("moved_cut gives a cut of the model", partial(_moved_cut, ref))
    for setting in SETTINGS:
        there = setting.topology
        yield tried(
            f"{there}: hooks keep shape, type and device, and give finite numbers", partial(_hooks, ref, setting)
        )
        yield tried(f"{there}: hooks leave what they are given as it is", partial(_untouched, ref, setting))
        yield tried(f"{there}: hooks move no global random stream or setting", partial(_undisturbing, ref, setting))
        yield tried(f"{there}: equal streams give equal results", partial(_deterministic, ref, setting))
        yield tried(f"{there}: every tensor it makes is made on the data's device", partial(_on_device, ref, setting))
        yield tried(f"{there}: the head can learn through it", partial(_differentiable, ref, setting))
        yield tried(f"{there}: samples are independent, or couples_samples says not", partial(_coupling, ref, setting))
        yield tried(f"{there}: a network trains under it", partial(_trains, ref, setting))
        yield tried(f"{there}: what it learns is stored and restored", partial(_restored, ref, setting))


def _moved_cut(ref: PluginRef) -> None:
    data = ground.digits()
    factory = registry.load_model(registry.reference("model", "mnist_net"))
    allowed = list(cuts(network(factory, data.image_shape, data.n_classes, Rng("verify"))))
    reached = registry.load_defense(ref).moved_cut(ground.CUT, allowed)
    if reached not in allowed:
        raise BrokenContractError(f"moved_cut gives {reached!r} for {ground.CUT!r}; give one of the cuts it is handed")


class _Tried:
    """A fresh defense on a fresh network, and each hook's input."""

    def __init__(self, ref: PluginRef, setting: Setting) -> None:
        data = ground.digits()
        self.defense = registry.load_defense(ref)
        self.protection = Protection([self.defense], Rng("verify"))
        self.split = self.protection.prepare(ground.parts(setting, self.defense), data.victim)
        self.part = data.test
        self.n_classes = data.n_classes
        with torch.no_grad():
            self.z: Tensor = self.split.head(self.part.images)
            out: Tensor = self.split.body(self.z)
        # What the label owner sends back in the u-shaped topology, here with a fixed direction.
        self.gradient = None if self.split.tail is None else (out - out.mean()) / out.numel()

    def results(self, phase: Phase) -> dict[str, Tensor]:
        """What each hook gives in a phase, after the harness's own checks."""
        found = {
            "protect_inputs": self.protection.inputs(self.part.images, phase),
            "protect_activations": self.protection.activations(self.z, phase),
        }
        if phase == "training":
            found["protect_labels"] = self.protection.labels(self.part.labels, self.n_classes)
            if self.gradient is not None:
                found["protect_gradients"] = self.protection.gradients(self.gradient, self.part.labels)
            # Past the harness, which would sum what is no scalar.
            extra = self.defense.client_loss(self.part.images, self.z, self.part.labels, 0)
            if extra is not None:
                found["client_loss"] = extra
        return found

    def inputs(self) -> dict[str, Tensor]:
        """What the hooks are given."""
        given = {"images x": self.part.images, "smashed data z": self.z, "labels y": self.part.labels}
        return given if self.gradient is None else {**given, "gradient g": self.gradient}


def _hooks(ref: PluginRef, setting: Setting) -> None:
    subject = _Tried(ref, setting)
    for phase in ("training", "inference"):
        found = subject.results(phase)
        labels = found.get("protect_labels")
        if labels is not None and not bool(((labels >= 0) & (labels < subject.n_classes)).all()):
            raise BrokenContractError(
                f"protect_labels gives labels outside 0 .. {subject.n_classes - 1}; keep them inside"
            )
        extra = found.get("client_loss")
        if extra is not None and (extra.ndim != 0 or not bool(torch.isfinite(extra))):
            raise BrokenContractError(
                f"client_loss gives {tuple(extra.shape)} or no finite number; give a finite scalar"
            )


def _untouched(ref: PluginRef, setting: Setting) -> None:
    subject = _Tried(ref, setting)
    before = {name: tensor.clone() for name, tensor in subject.inputs().items()}
    for phase in ("training", "inference"):
        subject.results(phase)
    for name, tensor in subject.inputs().items():
        if not torch.equal(tensor, before[name]):
            raise BrokenContractError(
                f"a hook writes into the {name} it is given; make a new tensor (z + noise, not z += noise)"
            )


def _undisturbing(ref: PluginRef, setting: Setting) -> None:
    with undisturbed("a hook"):
        subject = _Tried(ref, setting)
        for phase in ("training", "inference"):
            subject.results(phase)


def _deterministic(ref: PluginRef, setting: Setting) -> None:
    first, second = (_Tried(ref, setting) for _ in range(2))
    for phase in ("training", "inference"):
        again = second.results(phase)
        for hook, result in first.results(phase).items():
            if not torch.equal(result, again[hook]):
                raise BrokenContractError(
                    f"{hook} gives another result for the same rng; draw everything from that rng"
                )


def _on_device(ref: PluginRef, setting: Setting) -> None:
    # Every tensor made without device= lands on the default device; one that holds no numbers shows it on any machine.
    try:
        with torch.device("meta"), tempfile.TemporaryDirectory() as folder:
            subject = _Tried(ref, setting)
            for phase in ("training", "inference"):
                found = subject.results(phase)
                astray = [hook for hook, result in found.items() if result.device.type == "meta"]
                if astray:
                    raise BrokenContractError(f"{astray[0]}: {_NO_DEVICE}")
            ground.trained(ground.victim_spec(setting, (ref,)), Path(folder))
    except (RuntimeError, NotImplementedError) as error:
        if "meta" in str(error):
            raise BrokenContractError(_NO_DEVICE) from error
        raise


def _differentiable(ref: PluginRef, setting: Setting) -> None:
    subject = _Tried(ref, setting)
    x = subject.part.images
    z = subject.split.head(subject.protection.inputs(x, "training"))
    protected = subject.protection.activations(z, "training")
    if not protected.requires_grad:
        raise BrokenContractError(f"protect_activations cuts the gradient off (detach, no_grad, rounding); {_STRAIGHT}")
    protected.square().sum().backward()
    gradients = [p.grad for p in subject.split.head.parameters() if p.grad is not None]
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise BrokenContractError(
            "the gradient through protect_activations is NaN or infinite; bound what it divides by"
        )
    if not any(bool(g.any()) for g in gradients):
        raise BrokenContractError(f"the gradient through protect_activations is zero everywhere; {_STRAIGHT}")


def _coupling(ref: PluginRef, setting: Setting) -> None:
    first, second = (_Tried(ref, setting) for _ in range(2))
    if first.defense.couples_samples:
        return
    # The first sample stays, the others are taken in another order: what comes of the first must stay as well.
    order = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(len(first.part) - 1, 0, -1)])
    second.part = second.part.select(order)
    second.z = second.z[order] * torch.linspace(1, 3, len(order)).view(-1, *[1] * (second.z.ndim - 1))
    if second.gradient is not None:
        second.gradient = second.gradient[order] * 3
        second.gradient[0] /= 3
    found, other = first.results("training"), second.results("training")
    for hook in _HOOKS:
        if hook in found and not torch.allclose(found[hook][0], other[hook][0], rtol=1e-5, atol=1e-7):
            raise BrokenContractError(
                f"{hook}: what comes of one sample depends on the others of its batch; "
                "set couples_samples: ClassVar[bool] = True"
            )


def _trains(ref: PluginRef, setting: Setting) -> None:
    with tempfile.TemporaryDirectory() as folder:
        victim = ground.trained(ground.victim_spec(setting, (ref,)), Path(folder))
    _claims(victim.protection)


def _restored(ref: PluginRef, setting: Setting) -> None:
    trained, stored = (_Tried(ref, setting) for _ in range(2))
    ground.train(trained.split, trained.protection)
    state = {name: value.detach().clone() for name, value in trained.defense.state.items()}
    stored.defense.state.clear()
    stored.defense.state.update(state)
    stored.z = trained.z
    results = []
    for subject in (trained, stored):
        subject.protection = Protection([subject.defense], Rng("later"))
        results.append(subject.results("inference"))
    for hook, result in results[0].items():
        if not torch.equal(result, results[1][hook]):
            raise BrokenContractError(
                f"{hook}: a stored defense gives something else at inference than the one just trained; "
                "keep what is learned in self.state, which is stored with the victim"
            )


def _claims(protection: Protection) -> None:
    from defenses.base import PrivacyStatement, PrivacyView

    for claim in protection.privacy():
        if not isinstance(claim, PrivacyStatement):
            raise BrokenContractError(f"privacy gives {type(claim).__name__}; give PrivacyStatement objects")
        if claim.view not in get_args(PrivacyView):
            raise BrokenContractError(f"privacy: view {claim.view!r} is none of {', '.join(get_args(PrivacyView))}")
        if claim.epsilon is None and not claim.why_invalid:
            raise BrokenContractError("privacy: epsilon is None; say in why_invalid why no number can be stated")
        if claim.epsilon is not None and (math.isnan(claim.epsilon) or claim.epsilon < 0):
            raise BrokenContractError(f"privacy: epsilon {claim.epsilon} is no bound; give a number of at least 0")
        if not 0 <= claim.delta < 1 or claim.releases < 1:
            raise BrokenContractError(f"privacy: delta {claim.delta} or releases {claim.releases} is out of range")
    for name, value in protection.reached().items():
        if not math.isfinite(value):
            raise BrokenContractError(f"reached: {name} is {value}; leave out what was not measured")
