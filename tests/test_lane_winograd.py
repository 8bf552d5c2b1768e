import copy

import pytest
import torch
from torch import nn

from benchmark.lane_layers import Convolution, PerSample
from benchmark.lane_patches import PatchConvolution
from benchmark.lane_winograd import WinogradConvolution
from benchmark.lanes import Lanes, stages
from benchmark.models import MODELS, network, split
from benchmark.seeds import Rng, isolated

# Images of a lane, height, width: whole tiles; tiles that reach beyond; several images a block, several blocks.
SHAPES = [(1, 16, 16), (3, 13, 18), (12, 9, 11), (2, 38, 34)]
BLOCKS = {
    "convolution": lambda: [nn.Conv2d(16, 18, 3, padding=1)],
    "without padding or bias, rectified": lambda: [nn.Conv2d(17, 16, 3, bias=False), nn.ReLU()],
    "pooled, padded unequally": lambda: [nn.Conv2d(16, 16, 3, padding=(2, 1)), nn.MaxPool2d(2)],
    "rectified and pooled": lambda: [nn.Conv2d(16, 17, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
    "behind patches": lambda: [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()],
    "behind strided patches": lambda: [nn.Conv2d(2, 16, 5, stride=2, bias=False), nn.Conv2d(16, 16, 3, padding=2)],
}


@pytest.fixture(autouse=True)
def small_images_too(monkeypatch):
    monkeypatch.setattr("benchmark.lane_winograd._FEWEST", 1)


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    monkeypatch.setattr("benchmark.lane_compiled.usable", lambda: False)


def made(name, seed):
    with isolated(Rng(name, seed)):
        return nn.Sequential(*BLOCKS[name]()).double()


def inputs(name, shape):
    n, height, width = shape
    return Rng("inputs", *shape).normal((2, n, made(name, 0)[0].in_channels, height, width)).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_and_gradients_are_those_of_each_lane_by_itself(name, shape):
    heads = [made(name, seed) for seed in range(2)]
    lanes, x = Lanes(heads), inputs(name, shape).requires_grad_(True)
    assert type(stages(heads[0])[-1]) is WinogradConvolution
    out = lanes(x)
    upstream = Rng("upstream").normal(out.shape).double()
    (out * upstream).sum().backward()
    for lane, module in enumerate(heads):
        own = x[lane].detach().requires_grad_(True)
        expected = module(own)
        (expected * upstream[lane]).sum().backward()
        torch.testing.assert_close(out[lane], expected)
        torch.testing.assert_close(x.grad[lane], own.grad)
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(lanes.parameters[key].grad[lane], parameter.grad)


@pytest.mark.parametrize("name", BLOCKS)
def test_outputs_are_the_same_with_inputs_or_weights_fixed(name):
    lanes, x = Lanes([made(name, seed) for seed in range(2)]), inputs(name, SHAPES[1])
    expected, frozen = lanes(x), lanes.frozen()
    torch.testing.assert_close(lanes.at(x)(), expected)
    torch.testing.assert_close(frozen(x), expected)
    # What the weights are made into is kept from the first call on.
    torch.testing.assert_close(frozen(2 * x), lanes(2 * x))


def test_gradients_follow_differences_of_the_outputs():
    lanes = Lanes([made("rectified and pooled", 0)])
    x = Rng("differences").normal((1, 1, 16, 16, 13)).double().requires_grad_(True)
    direction = Rng("direction").normal(x.shape).double()
    (gradient,) = torch.autograd.grad(lanes(x).square().sum(), x)
    step = 1e-6 * direction
    change = (lanes(x + step).square().sum() - lanes(x - step).square().sum()) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-6, atol=0)


def test_float32_loses_no_more_than_a_few_bits():
    heads = [copy.deepcopy(made("rectified and pooled", seed)).float() for seed in range(2)]
    x = inputs("rectified and pooled", SHAPES[0]).float()
    expected = torch.stack([head.double()(x[lane].double()) for lane, head in enumerate(copy.deepcopy(heads))])
    assert (Lanes(heads)(x) - expected).abs().max() < 2**-18 * expected.abs().max()


def test_of_tied_outputs_the_first_gets_the_gradient_as_in_max_pooling():
    head = split(network(MODELS["cifar_net"], (3, 32, 32), 10, Rng("ties")), "pool1").head
    constant = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    head(constant).sum().backward()
    stacked = torch.full((1, 1, 3, 32, 32), 0.5, requires_grad=True)
    Lanes([head])(stacked).sum().backward()
    torch.testing.assert_close(stacked.grad[0], constant.grad, atol=1e-4, rtol=1e-4)


def test_too_few_tiles_run_as_plain_layers_and_give_the_same(monkeypatch):
    monkeypatch.setattr("benchmark.lane_winograd._FEWEST", 5)
    heads = [made("rectified and pooled", seed) for seed in range(2)]
    x = Rng("few").normal((2, 1, 16, 8, 8)).double().requires_grad_(True)
    out = Lanes(heads)(x)
    torch.testing.assert_close(out, torch.stack([head(x[lane]) for lane, head in enumerate(heads)]))
    assert "_Filtered" not in str(out.grad_fn)


@pytest.mark.parametrize(
    ("block", "kinds"),
    [
        ([nn.Conv2d(16, 16, 3, stride=2)], [Convolution]),
        ([nn.Conv2d(16, 16, 3, dilation=2)], [Convolution]),
        ([nn.Conv2d(16, 16, 3, groups=2)], [Convolution]),
        ([nn.Conv2d(15, 16, 3)], [Convolution]),
        ([nn.Conv2d(16, 16, 3, padding="same")], [Convolution]),
        ([nn.Conv2d(3, 16, 3), nn.ReLU()], [Convolution, PerSample]),
        (
            [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.MaxPool2d(3)],
            [PatchConvolution, WinogradConvolution, PerSample],
        ),
        ([nn.Conv2d(16, 16, 3), nn.ReLU(), nn.ReLU()], [WinogradConvolution, PerSample]),
    ],
)
def test_other_convolutions_are_left_as_they_were(block, kinds):
    assert [type(stage) for stage in stages(nn.Sequential(*block))] == kinds


def test_in_bfloat16_nothing_is_filtered():
    # Rounded transforms would lose more bits than rounded products do.
    head = split(network(MODELS["cifar_net"], (3, 32, 32), 10, Rng(0)), "pool1").head
    assert WinogradConvolution in [type(stage) for stage in stages(head)]
    assert WinogradConvolution not in [type(stage) for stage in stages(head, "bfloat16")]
