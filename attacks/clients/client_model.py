"""Probes the defenses of a view and models its client: which hook has to be called, and what its expectation is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.clients.defended_path import ClientModel, HookModel
from attacks.clients.hook_model import Hook, Kind, probe
from attacks.clients.straight_through import Slope
from benchmark.errors import PluginError
from benchmark.view import ServerView

_PROBES = 64
_HEADS = 4
_DOUBLINGS = range(-12, 13)
# Samples differ in size: a hook that is a line for small values alone must not pass for one.
_SIZES = (0.5, 1.0, 2.0)
_LEAST_MEASURED = 0.1


def client_model(view: ServerView, *, expected: bool, stand_in: bool = False) -> ClientModel:
    """Model the client of a view by its defenses' own hooks.

    Args:
        view: Grants `Knowledge.DEFENSE`.
        expected: Whether expectations over a hook's randomness take the place of draws.
        stand_in: Whether a defense's `attacker_model` takes the place of its hook on activations, where it has one.
    """
    parts = view.protection.apart()
    images = view.rng("probe", "images").uniform((_PROBES, *view.image_shape), view.device)
    inputs = list[HookModel]()
    for part in parts:
        if part.defenses[0].overrides("protect_inputs"):
            inputs.append(_modelled(Hook(part, "inputs", view.phase), images, expected))
            images = _passed(inputs[-1], images)

    hooks: list[Hook | nn.Module] = []
    for part in parts:
        own = part.defenses[0].attacker_model() if stand_in else None
        if own is not None:
            hooks.append(own.to(view.device).eval().requires_grad_(False))
        elif part.defenses[0].overrides("protect_activations"):
            hooks.append(Hook(part, "activations", view.phase))
    random = any(model.kind.random for model in inputs)
    if not hooks:
        return ClientModel(_active(inputs), random_inputs=random)
    values = _typical(view, images)
    values = values * _scale(view, [hook for hook in hooks if isinstance(hook, Hook)], values)
    sent = values = values * torch.tensor(_SIZES, device=view.device).repeat(_PROBES)[:_PROBES].view(
        -1, *[1] * (values.dim() - 1)
    )
    activations = list[HookModel]()
    for hook in hooks:
        activations.append(_modelled(hook, values, expected) if isinstance(hook, Hook) else _stood_in(hook, values))
        values = _passed(activations[-1], values)

    gain = _gain(activations, sent)
    at = next((at for at, model in enumerate(activations) if model.kind.masked), None)
    if expected and at is not None and _told_by_zeros(inputs, activations, at):
        mask = replace(activations[at], unmasked=True)
        activations[at] = mask
        if mask.kind.random:
            return ClientModel(_active(inputs), _active(activations), mask=mask.kind.masked, gain=gain)
    variance = _variance(activations, sent)
    return ClientModel(_active(inputs), _active(activations), gain=gain, variance=variance, random_inputs=random)


def _told_by_zeros(inputs: Sequence[HookModel], activations: Sequence[HookModel], mask: int) -> bool:
    """Whether a mask can be told from what was sent: all else is fixed, and what follows leaves a 0 where it is."""
    others = [*inputs, *activations[:mask], *activations[mask + 1 :]]
    lines = [model.line for model in activations[mask + 1 :]]
    return not any(model.kind.random for model in others) and all(
        line is not None and line[0].follows is None and not bool(line[1].any()) for line in lines
    )


def has_stand_in(view: ServerView) -> bool:
    """Whether a defense of the view offers a differentiable stand-in of its own."""
    return any(defense.attacker_model() is not None for defense in view.protection.defenses)


def _modelled(hook: Hook, values: Tensor, expected: bool) -> HookModel:
    marked, kind = probe(hook, values)
    return HookModel(marked, kind, expected, values[0])


def _stood_in(module: nn.Module, values: Tensor) -> HookModel:
    def called(value: Tensor, *_: object) -> Tensor:
        result: Tensor = module(value)
        return result

    kind = Kind(
        slope=Slope(torch.ones_like(values[0])),
        offset=torch.zeros_like(values[0]),
        affine=False,
        straight=False,
        random=False,
        additive=False,
        masked=0.0,
        differentiable=True,
        by_sample=True,
    )
    return HookModel(called, kind, True, values[0])


def _active(models: Sequence[HookModel]) -> tuple[HookModel, ...]:
    return tuple(
        model
        for model in models
        if not (model.kind.identity and model.line is not None and (model.unmasked or not model.kind.masked))
    )


def _passed(model: HookModel, values: Tensor) -> Tensor:
    with torch.no_grad():
        return model.hook(values, "passed")


def _typical(view: ServerView, images: Tensor) -> Tensor:
    """[probes, ...] values of the kind an untrained head gives out, units independent of each other."""
    with torch.no_grad():
        made = torch.cat([view.new_head(view.rng("probe", at)).eval()(images) for at in range(_HEADS)])
    order = view.rng("probe", "order").permutation(made.numel(), view.device)
    return made.flatten()[order].view_as(made)[: len(images)]


def _scale(view: ServerView, hooks: Sequence[Hook], values: Tensor) -> float:
    """By which power of 2 typical values must be multiplied for the hooks to give out what was observed.

    Quantisation and clips act at the scale of the trained head, which is not the scale of an untrained one.
    """
    wanted = _spread(view.smashed.flatten(0, 1))
    best, smallest = 1.0, torch.inf
    for power in _DOUBLINGS:
        made = values * 2.0**power
        try:
            with torch.no_grad():
                for hook in hooks:
                    made = hook(made, "scale")
        except PluginError:
            # Too large for this hook.
            continue
        distance = abs(_log(_spread(made)) - _log(wanted)) + 1e-3 * abs(power)
        if distance < smallest:
            best, smallest = 2.0**power, distance
    return best


def _spread(values: Tensor) -> float:
    """Standard deviation about each unit's mean over the samples, or about the mean of all where there is one."""
    return float((values - (values.mean(0) if len(values) > 1 else values.mean())).square().mean().sqrt())


def _log(value: float) -> float:
    return torch.tensor(max(value, 1e-30), device="cpu").log2().item()


def _gain(hooks: Sequence[HookModel], values: Tensor) -> Tensor:
    """[...] mean square of each unit that is sent, up to a factor, where all units of the head are of one size."""
    gain = torch.ones_like(values[0])
    with torch.no_grad():
        for model in hooks:
            one, moved = model.hook(values, "gain"), model.hook(values.roll(1, 0), "gain")
            slope = model.kind.slope
            if model.kind.affine or model.kind.masked:
                gain = Slope(slope.factor.square(), slope.follows)(gain)
            else:
                # Measured on few samples: no unit is taken to be much smaller than the others.
                size = (one - moved).square().mean(0)
                gain = gain.mean() * size.clamp(min=_LEAST_MEASURED * float(size.mean()))
            values = one
    return gain


def _variance(hooks: Sequence[HookModel], values: Tensor) -> Tensor:
    """[...] variance that the hooks' randomness gives to each unit of one view."""
    one = other = values
    with torch.no_grad():
        for model in hooks:
            one, other = model.hook(one, "variance", 0), model.hook(other, "variance", 1)
    return (one - other).square().mean(0) / 2
