"""Stacks independent problems: many heads of one architecture, each on inputs of its own, in one tensor program.

A *lane* is one of them. Lanes share nothing but the program: each lane's output depends on its own weights and inputs
alone, so the gradient of any sum over lanes is every lane's own gradient, and an elementwise optimiser on the stacked
tensors is an optimiser a lane.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from benchmark.lane_compiled import CompiledConvolutions, blocks
from benchmark.lane_graphs import Replayed
from benchmark.lane_layers import Anything, Convolution, Dense, PerSample, Precision, Stage, hooked
from benchmark.lane_patches import PatchConvolution
from benchmark.lane_pooling import PooledConvolution
from benchmark.lane_rounded import RoundedConvolutions
from benchmark.lane_winograd import WinogradConvolution

# They treat every sample by itself and hold no weights, so lanes may be folded into the batch.
_PER_SAMPLE: tuple[type[nn.Module], ...] = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.ELU,
    nn.Flatten,
    nn.GELU,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.ReLU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
    nn.Upsample,
)


class Lanes:
    """Heads of one architecture, stacked.

    Heads run in evaluation mode: dropout is off and batch normalisation uses its buffers, so that no lane, and no
    sample of a lane, depends on another.

    Args:
        heads: One a lane, of equal architecture and on one device. The same module may stand several times; all weights
            are copied.
        precision: What images and weights of convolutions are rounded to, where these run as such (those in
            `lane_pooling` do not, and `lane_winograd` is for float32 only); all else is in the weights' own precision.

    Attributes:
        parameters: The trainable weights by name, [L, ...] each, leaves that require gradients.
        buffers: The other state by name, [L, ...] each; never changed.
    """

    def __init__(self, heads: Sequence[nn.Module], precision: Precision = "float32") -> None:
        state = stack_module_state(list(heads))
        self.parameters: dict[str, Tensor] = {
            k: v.detach().contiguous().requires_grad_(True) for k, v in state[0].items()
        }
        self.buffers: dict[str, Tensor] = {k: v.detach() for k, v in state[1].items()}
        self._template = copy.deepcopy(heads[0]).eval().requires_grad_(False)
        self._stages: list[Stage] = stages(self._template, precision)
        self._n = len(heads)

    def __len__(self) -> int:
        return self._n

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs, [L, n, ...], for inputs `x`, [L, n, channels, height, width]."""
        stacked = {**self.parameters, **self.buffers}
        for stage in self._stages:
            x = stage.combine(stage.weights(stacked), stage.inputs(x))
        return x

    def at(self, x: Tensor) -> Callable[[], Tensor]:
        """The forward pass at inputs that stay fixed while the weights change; gradients reach the weights only."""
        first, *others = self._stages
        seen = first.inputs(x.detach())

        def forward(*weights: Tensor) -> Tensor:
            stacked = dict(zip(self.parameters, weights, strict=True)) | self.buffers
            out = first.combine(first.weights(stacked), seen)
            for stage in others:
                out = stage.combine(stage.weights(stacked), stage.inputs(out))
            return out

        run = self._replayed(forward)
        return lambda: run(*self.parameters.values())

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """The forward pass with the weights as they are now, while the inputs change; gradients reach these only."""
        stacked = {name: value.detach() for name, value in (self.parameters | self.buffers).items()}
        prepared = [(stage, stage.weights(stacked)) for stage in self._stages]

        def forward(x: Tensor) -> Tensor:
            for stage, weights in prepared:
                x = stage.combine(weights, stage.inputs(x))
            return x

        return self._replayed(forward)

    def head(self, lane: int) -> nn.Module:
        """A module of its own with the present weights of one lane, in evaluation mode."""
        module = copy.deepcopy(self._template)
        state = {name: value[lane].detach().clone() for name, value in (self.parameters | self.buffers).items()}
        module.load_state_dict(state, strict=False)
        return module.requires_grad_(True)

    def _replayed(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # A module of a kind that is not known here may wait for the device, which cannot be recorded.
        known = not any(isinstance(stage, Anything) for stage in self._stages)
        on_cuda = bool(self.parameters) and all(weight.is_cuda for weight in self.parameters.values())
        return Replayed(forward) if known and on_cuda else forward


def adam(tensors: Iterable[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam with AMSGrad (Kingma and Ba, 2015; Reddi, Kale and Kumar, 2018) on stacked tensors.

    It works elementwise, so lanes stay independent. The fused kernel keeps its step count on the tensors' device
    whatever the default device is.
    """
    return torch.optim.Adam(list(tensors), lr=learning_rate, amsgrad=True, fused=True)


def bytes_per_lane(head: nn.Module, x: Tensor) -> int:
    """Bytes that one lane of `head` at inputs `x`, [n, channels, height, width], takes while it is optimised.

    Measured on one forward pass: what is kept for the backward pass, four times over for what comes and goes beside it
    (gradients, other layouts), and the weights and inputs with their gradients and optimiser states.
    """
    lanes = Lanes([head])
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = max(kept.get(tensor.data_ptr(), 0), tensor.nbytes)
        return tensor

    stacked = x.detach().unsqueeze(0).requires_grad_(True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = lanes(stacked)
    optimised = sum(value.nbytes for value in lanes.parameters.values()) + stacked.nbytes
    return 4 * (sum(kept.values()) + out.nbytes) + 6 * optimised


def chunks(n_lanes: int, lane_bytes: int, memory: int) -> list[range]:
    """Lanes 0 .. n_lanes-1 in order, in runs of nearly equal length that each fit `memory` bytes.

    A lane cannot be divided: a run has at least one, whatever `memory` is.
    """
    fitting = max(1, memory // max(1, lane_bytes))
    runs = -(-n_lanes // fitting)
    edges = [n_lanes * run // runs for run in range(runs + 1)]
    return [range(start, end) for start, end in pairwise(edges)]


def stages(head: nn.Module, precision: Precision = "float32") -> list[Stage]:
    """The stages that run `head`, first to last; its parameters are looked up by their names in it."""
    names = {id(value): name for name, value in [*head.named_parameters(), *head.named_buffers()]}
    return _stages(_layers(head), names, precision, compiled=True)


def _stages(
    layers: Sequence[nn.Module], names: Mapping[int, str], precision: Precision, *, compiled: bool
) -> list[Stage]:
    found: list[Stage] = []
    while layers:
        stage, used = _stage(layers, names, precision, compiled=compiled)
        found.append(stage)
        layers = layers[used:]
    return found


def _stage(
    layers: Sequence[nn.Module], names: Mapping[int, str], precision: Precision, *, compiled: bool
) -> tuple[Stage, int]:
    layer = layers[0]
    weight, bias = (names.get(id(getattr(layer, which, None))) for which in ("weight", "bias"))
    if not hooked(layer) and weight is not None:
        rectified = len(layers) > 2 and type(layers[1]) is nn.ReLU
        used = 3 if rectified else 2
        block = layers[:used]
        if len(block) == used and PooledConvolution.fits(layer, block[-1]) and not any(map(hooked, block)):
            assert isinstance(layer, nn.Conv2d)
            return PooledConvolution(layer, weight, bias, rectified), used
        taken = blocks(layers, names, precision) if compiled else []
        if taken:
            ends = list(accumulate((block.layers for block in taken), initial=0))
            others = [_stages(layers[end : ends[-1]], names, precision, compiled=False) for end in ends[:-1]]
            return CompiledConvolutions(taken, others), ends[-1]
        if precision == "float32":
            filtered = _filtered(layers, weight, bias)
            if filtered is not None:
                return filtered
        elif RoundedConvolutions.fits(layer):
            rounded = _rounded(layers)
            return RoundedConvolutions(rounded, names), len(rounded)
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            return Convolution(layer, weight, bias), 1
        if type(layer) is nn.Linear:
            return Dense(weight, bias), 1
    if type(layer) in _PER_SAMPLE and not hooked(layer):
        return PerSample(layer), 1
    own = [*layer.named_parameters(), *layer.named_buffers()]
    return Anything(layer, [(name, names[id(value)]) for name, value in own]), 1


def _filtered(layers: Sequence[nn.Module], weight: str, bias: str | None) -> tuple[Stage, int] | None:
    """By minimal filtering, or channels last for a convolution behind that is run so, if either can be."""
    first, *others = layers
    rectified = bool(others) and type(others[0]) is nn.ReLU and not hooked(others[0])
    if PatchConvolution.fits(first) and WinogradConvolution.fits(others[rectified : rectified + 1]):
        assert isinstance(first, nn.Conv2d)
        return PatchConvolution(first, weight, bias, rectified), 1 + rectified
    for block in (layers[:3], layers[:2], layers[:1]):
        if WinogradConvolution.fits(block) and not any(map(hooked, block)):
            return WinogradConvolution(block, weight, bias), len(block)
    return None


def _rounded(layers: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """Those at the beginning that can stay in bfloat16."""
    for count, layer in enumerate(layers):
        pooled = any(PooledConvolution.fits(layer, behind) for behind in layers[count + 1 : count + 3])
        if pooled or hooked(layer) or not RoundedConvolutions.fits(layer):
            return layers[:count]
    return layers


def _layers(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential and not hooked(module):
        return [layer for child in module for layer in _layers(child)]
    return [module]
