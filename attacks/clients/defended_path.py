"""The way from an image to what was sent, as an attacker models it who knows the defense: hooks around the clone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from attacks.clients.hook_model import Kind, Which
from attacks.clients.straight_through import Slope, straight_through

_DRAWS = 4
_CENTRE_DRAWS = 64


@dataclass(frozen=True)
class HookModel:
    """One hook inside the attacker's model.

    Attributes:
        hook: Values [batch, ...] and the name of a stream to values, as `attacks.clients.hook_model.Hook`.
        kind: What probing found.
        expected: Whether the expectation over its randomness takes the place of one fresh draw a call.
        unmasked: Whether a mask is left out where what was sent says that it let a unit through.
        typical: [...] one typical value of a sample.
    """

    hook: Callable[..., Tensor]
    kind: Kind
    expected: bool
    typical: Tensor
    unmasked: bool = False
    _noises: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def varies(self) -> bool:
        """Whether every call draws anew."""
        return self.line is None and self.kind.random and not (self.expected and self.kind.additive)

    @property
    def line(self) -> tuple[Slope, Tensor] | None:
        """Slope and offset [...], where no call is needed.

        Where expectations are taken, a hook without a useful gradient (rounding) is its line: in expectation over where
        between two steps a value lies.
        """
        kind = self.kind
        rounded = not kind.random and not kind.differentiable and not kind.masked
        if not (kind.affine and not kind.random) and not (self.expected and (kind.affine or kind.straight or rounded)):
            return None
        share = 1.0 if self.unmasked else 1 - kind.masked
        return Slope(kind.slope.factor * share, kind.slope.follows), kind.offset

    def __call__(self, values: Tensor, names: Sequence[int], step: int, seen: Tensor | None = None) -> Tensor:
        """[L, n, ...] for [L, n, ...] of lanes called `names`; draws are named by lane and step.

        With `unmasked` a fixed mask is left out where `seen`, [L, n, ...], says that it let the client's unit through.
        """
        if (line := self.line) is not None:
            sent: Tensor = line[0](values) + line[1]
            return sent
        if self.kind.by_sample:
            made = self._called(values.flatten(0, 1), "step").unflatten(0, values.shape[:2])
            return torch.where(seen, self.kind.slope(values), made) if self.unmasked and seen is not None else made
        # Each lane by itself: neither what else runs nor how lanes are chunked may reach its draws.
        if not self.expected or not self.kind.random:
            lanes = [self._called(lane, "lane", name, step) for lane, name in zip(values, names, strict=True)]
        elif self.kind.additive:
            noise = self._noise(values.shape[1])
            lanes = [self._called(lane, "fixed") - noise for lane in values]
        else:
            lanes = [
                self._called(lane.repeat(_DRAWS, *[1] * (lane.dim() - 1)), "lane", name, step)
                .unflatten(0, (_DRAWS, len(lane)))
                .mean(0)
                for lane, name in zip(values, names, strict=True)
            ]
        return torch.stack(lanes)

    def _called(self, values: Tensor, *stream: object) -> Tensor:
        if self.kind.differentiable:
            return self.hook(values, *stream)
        with torch.no_grad():
            result = self.hook(values.detach(), *stream)
        return straight_through(values, result, self.kind.slope) if values.requires_grad else result

    def _noise(self, n: int) -> Tensor:
        """[n, ...] what the stream `fixed` adds to n samples, beyond the mean of what is added."""
        if n not in self._noises:
            same = self.typical.expand(n, *self.typical.shape).contiguous()
            with torch.no_grad():
                draws = torch.stack([self.hook(same, "centre", draw) for draw in range(_CENTRE_DRAWS)])
                self._noises[n] = self.hook(same, "fixed") - draws.mean((0, 1))
        return self._noises[n]


@dataclass(frozen=True)
class ClientModel:
    """The hooks of one view's client, in the phase of the view.

    Attributes:
        inputs: Before the head, in order; hooks that change nothing are left out.
        activations: After it.
        mask: Share of what the client sends that is masked at random, where it can be told by being 0; else 0.
        gain: [...] size of each unit of what is sent, in squares, where all units of the head are of one size; None
            where nothing follows the head.
        variance: [...] variance that the randomness after the head gives to each unit of one view, or None.
        random_inputs: Whether there is randomness before the head.
    """

    inputs: tuple[HookModel, ...] = ()
    activations: tuple[HookModel, ...] = ()
    mask: float = 0.0
    gain: Tensor | None = None
    variance: Tensor | None = None
    random_inputs: bool = False

    @property
    def keeps_black(self) -> bool:
        """Whether nothing is added to the images before the head on average, as a negative does."""
        return not any(bool(model.kind.offset.any()) for model in self.inputs)


class DefendedPath:
    """The hooks of several clients around the lanes of one program.

    Args:
        clients: A model for each view.
        lanes: (view, number of the lane within it), lane by lane; lanes of a view stand together.
        targets: [L, n, ...] what was sent.
    """

    def __init__(self, clients: Sequence[ClientModel], lanes: Sequence[tuple[int, int]], targets: Tensor) -> None:
        self._step = 0
        self._clients, self._lanes = clients, lanes
        runs = [(view, [number for _, number in run]) for view, run in groupby(lanes, key=lambda lane: lane[0])]
        self._names = [names for _, names in runs]
        self._chains: dict[Which, list[tuple[HookModel, ...]]] = {
            "inputs": [clients[view].inputs for view, _ in runs],
            "activations": [clients[view].activations for view, _ in runs],
        }
        self._lines = {which: self._stacked(chains) for which, chains in self._chains.items()}
        self._seen = (targets != 0).split([*map(len, self._names)])
        self.inputs_vary = any(model.varies for chain in self._chains["inputs"] for model in chain)

    def part(self, lanes: Sequence[int], targets: Tensor) -> DefendedPath:
        """The same for some of the lanes, ascending, whose targets are given; it goes on drawing where this one is."""
        part = DefendedPath(self._clients, [self._lanes[lane] for lane in lanes], targets)
        part._step = self._step
        return part

    def inputs(self, x: Tensor) -> Tensor:
        """Images as they enter the head, [L, n, channels, height, width]."""
        self._step += 1
        return self._through("inputs", x)

    def activations(self, z: Tensor) -> Tensor:
        """Smashed data as they leave the client, [L, n, ...]."""
        self._step += 1
        return self._through("activations", z)

    def _through(self, which: Which, values: Tensor) -> Tensor:
        chains = self._chains[which]
        if not any(chains):
            return values
        if (line := self._lines[which]) is not None:
            return torch.addcmul(line[1], values, line[0])
        parts = []
        split = values.split([*map(len, self._names)])
        for chain, names, part, seen in zip(chains, self._names, split, self._seen, strict=True):
            for model in chain:
                part = model(part, names, self._step, seen)
            parts.append(part)
        return torch.cat(parts)

    def _stacked(self, chains: Sequence[Sequence[HookModel]]) -> tuple[Tensor, Tensor] | None:
        """Factor and offset, [L, 1, ...], where no hook of any lane has to be called."""
        typical = next((model.typical for chain in chains for model in chain), None)
        lines = [_line(chain, typical) for chain in chains] if typical is not None else []
        present = [line for line in lines if line is not None]
        if not present or len(present) < len(lines):
            return None
        sizes = torch.tensor([len(names) for names in self._names], device=present[0][0].device)
        factor, offset = (
            torch.stack(parts).repeat_interleave(sizes, 0).unsqueeze(1) for parts in zip(*present, strict=True)
        )
        return factor, offset


def _line(chain: Sequence[HookModel], like: Tensor) -> tuple[Tensor, Tensor] | None:
    factor, offset = torch.ones_like(like), torch.zeros_like(like)
    for model in chain:
        if model.line is None or model.line[0].follows is not None:
            return None
        slope, added = model.line
        factor, offset = factor * slope.factor, offset * slope.factor + added
    return factor, offset
