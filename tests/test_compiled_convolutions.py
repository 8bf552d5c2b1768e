import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmark.compiled.agreement import by_pytorch, state, usable
from benchmark.compiled.convolutions import Convolved, convolved
from benchmark.lane_compiled import CompiledConvolutions
from benchmark.lane_layers import PerSample
from benchmark.lanes import Lanes, stages
from benchmark.models import MODELS, network, split
from benchmark.seeds import Rng

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler on this machine"
)

# Images of a lane, height, width: whole tiles; tiles that reach beyond; several images; more tiles than go together.
SHAPES = [(1, 16, 16), (3, 13, 18), (2, 5, 7), (2, 30, 25)]
PICTURES = Convolved(pictures=True, padding=(1, 1), rectified=True)
# Channels of the first inputs, and each convolution with its outputs and the sides of its kernel.
FORMS = {
    "convolution": (16, [(Convolved(padding=(1, 1)), 32, (3, 3))]),
    "rectified, without padding": (32, [(Convolved(rectified=True), 16, (3, 3))]),
    "pooled, padded unequally": (16, [(Convolved(padding=(2, 1), pooled=True), 16, (3, 3))]),
    "more channels than a block": (16, [(Convolved(padding=(1, 1), rectified=True, pooled=True), 80, (3, 3))]),
    "behind pictures": (3, [(PICTURES, 64, (3, 3)), (Convolved(rectified=True, pooled=True), 16, (3, 3))]),
    "behind strided pictures": (2, [(Convolved(True, 2, (0, 3)), 16, (5, 4)), (Convolved(padding=(1, 1)), 16, (3, 3))]),
    "pictures alone": (4, [(Convolved(True, 3, (1, 0), rectified=True), 48, (1, 7))]),
    "three": (
        1,
        [(PICTURES, 16, (3, 3)), (Convolved(padding=(1, 1)), 32, (3, 3)), (Convolved(padding=(1, 1)), 16, (3, 3))],
    ),
}


def given(name, shape, dtype=torch.float32):
    """Images, convolutions and weights of two lanes; the first convolution has a bias, the others have none."""
    n, height, width = shape
    channels, convolutions = FORMS[name]
    rng, weights = Rng(name, *shape), []
    x = rng.child("x").normal((2, n, channels, height, width))
    for at, (_, outward, sides) in enumerate(convolutions):
        kernel = (
            rng.child("kernel", at).normal((2, outward, channels, *sides)) / (channels * sides[0] * sides[1]) ** 0.5
        )
        weights.append((kernel, None if at else rng.child("bias").normal((2, outward))))
        channels = outward
    tensors = [x, *(tensor for both in weights for tensor in both if tensor is not None)]
    for tensor in tensors:
        tensor.requires_grad_()
    return x, [how for how, *_ in convolutions], weights, tensors


def gradients(convolve, x, layers, weights, wanted):
    out = convolve(x, layers, weights)
    return out, torch.autograd.grad(out, wanted, Rng("upstream").normal(out.shape).to(out.dtype))


def relative_distance(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def has_near_ties(x, layers, weights):
    """Whether the largest two under some window are so near that rounding may choose where the gradient goes."""
    if not layers[-1].pooled:
        return False
    before = by_pytorch(x, [*layers[:-1], replace(layers[-1], pooled=False, rectified=False)], weights)
    windows = before[..., : before.shape[-2] // 2 * 2, :].unfold(-2, 2, 2).unfold(-2, 2, 2).flatten(-2)
    largest = windows.topk(2).values
    return bool((largest[..., 0] - largest[..., 1] < 1e-4).any())


def test_the_code_is_compiled_and_usable_wherever_there_is_a_compiler():
    assert usable(), state()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMS)
def test_outputs_and_gradients_are_those_of_pytorch(name, shape):
    x, layers, weights, wanted = given(name, shape)
    doubled = [tensor.detach().double().requires_grad_() for tensor in wanted]
    others = iter(doubled[1:])
    in_double = [(next(others), None if bias is None else next(others)) for _, bias in weights]
    found, found_gradients = gradients(convolved, x, layers, weights, wanted)
    expected, expected_gradients = gradients(by_pytorch, doubled[0], layers, in_double, doubled)
    assert relative_distance(found.double(), expected) < 3e-6
    most = 0.05 if has_near_ties(doubled[0], layers, in_double) else 3e-6
    for mine, theirs in zip(found_gradients, expected_gradients, strict=True):
        assert relative_distance(mine.double(), theirs) < most


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMS)
def test_in_bfloat16_they_differ_from_pytorch_by_roundings_only(name, shape):
    x, layers, weights, wanted = given(name, shape)
    rounded = [replace(how, rounded=True) for how in layers]
    found, found_gradients = gradients(convolved, x, rounded, weights, wanted)
    expected, expected_gradients = gradients(by_pytorch, x, rounded, weights, wanted)
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)
    for mine, theirs in zip(found_gradients, expected_gradients, strict=True):
        assert relative_distance(mine, theirs) < 0.02


@pytest.mark.parametrize("name", FORMS)
def test_each_gradient_is_the_same_whether_others_are_wanted_or_not(name):
    x, layers, weights, wanted = given(name, SHAPES[1])
    _, together = gradients(convolved, x, layers, weights, wanted)
    for at, tensor in enumerate(wanted):
        for other in wanted:
            other.requires_grad_(other is tensor)
        assert torch.equal(gradients(convolved, x, layers, weights, [tensor])[1][0], together[at])


def test_a_lane_gives_the_same_bits_alone_or_among_others_on_one_thread_or_two(monkeypatch):
    x, layers, weights, wanted = given("behind pictures", SHAPES[3])
    first = gradients(convolved, x, layers, weights, wanted)
    monkeypatch.setattr("benchmark.compiled.steps._WORTH_A_THREAD", 0)
    torch.set_num_threads(2)
    try:
        on_two = gradients(convolved, x, layers, weights, wanted)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(first[0], on_two[0])
    assert all(map(torch.equal, first[1], on_two[1]))
    alone = [(kernel[1:], None if bias is None else bias[1:]) for kernel, bias in weights]
    assert torch.equal(convolved(x[1:], layers, alone), first[0][1:])


def test_of_tied_outputs_the_first_gets_the_gradient_as_in_max_pooling():
    head = split(network(MODELS["cifar_net"], (3, 32, 32), 10, Rng("ties")), "pool1").head
    constant = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    head(constant).sum().backward()
    stacked = torch.full((1, 1, 3, 32, 32), 0.5, requires_grad=True)
    lanes = Lanes([head])
    assert type(lanes._stages[0]) is CompiledConvolutions
    lanes(stacked).sum().backward()
    torch.testing.assert_close(stacked.grad[0], constant.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("where", ["relu12", "pool1"])
def test_what_is_not_a_number_stays_visible_in_its_lane_and_reaches_no_other(precision, where):
    heads = [split(network(MODELS["cifar_net"], (3, 16, 16), 10, Rng(seed)), where).head for seed in range(3)]
    with torch.no_grad():
        heads[1].conv12.weight[5, 7, 1, 1] = float("nan")
    out = Lanes(heads, precision)(Rng("x").uniform((3, 2, 3, 16, 16)))
    assert out[1, :, 5].isnan().all()
    assert not out[[0, 2]].isnan().any()


@pytest.mark.parametrize("cut", ["relu12", "pool1", "relu22", "pool2"])
def test_lanes_at_every_cut_give_what_their_heads_give_with_inputs_or_weights_fixed_too(cut):
    heads = [split(network(MODELS["cifar_net"], (3, 32, 32), 10, Rng(seed)), cut).head for seed in range(2)]
    lanes, x = Lanes(heads), Rng("x").uniform((2, 2, 3, 32, 32))
    assert [type(stage) for stage in lanes._stages] == [CompiledConvolutions]
    expected = torch.stack([head(x[lane]) for lane, head in enumerate(heads)])
    for out in (lanes(x), lanes.at(x)(), lanes.frozen()(x)):
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_weights_that_change_between_two_calls_are_seen():
    head = split(network(MODELS["cifar_net"], (3, 16, 16), 10, Rng(0)), "pool1").head
    lanes, x = Lanes([head]), Rng("x").uniform((1, 1, 3, 16, 16))
    fixed = lanes.at(x)
    before = fixed()
    with torch.no_grad():
        lanes.parameters["conv12.bias"] += 1
    assert (fixed() - before).min() >= 0
    assert not torch.equal(fixed(), before)


@pytest.mark.parametrize(
    ("block", "taken"),
    [
        ([nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)], 3),
        ([nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3)], 3),
        ([nn.Conv2d(16, 16, 3), nn.ReLU(), nn.ReLU()], 2),
        ([nn.Conv2d(16, 16, 3), nn.MaxPool2d(3)], 1),
        ([nn.Conv2d(16, 16, 3), nn.Conv2d(16, 24, 3)], 1),
        ([nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3)], 2),
        ([nn.Conv2d(15, 16, 3), nn.ReLU()], 0),
        ([nn.Conv2d(24, 16, 3)], 0),
        ([nn.Conv2d(16, 16, 3, stride=2)], 0),
        ([nn.Conv2d(16, 16, 3, dilation=2)], 0),
        ([nn.Conv2d(16, 16, 3, groups=16)], 0),
        ([nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")], 0),
        ([nn.Conv2d(16, 16, 3, padding="same")], 0),
        ([nn.Conv2d(16, 16, 5, padding=2)], 0),
        ([nn.Conv2d(16, 16, 3).double()], 0),
    ],
)
def test_as_many_layers_are_taken_as_the_code_can_do(block, taken):
    first = stages(nn.Sequential(*block))[0]
    found = sum(block.layers for block in first.blocks) if isinstance(first, CompiledConvolutions) else 0
    assert found == taken


def test_a_hooked_layer_is_not_taken():
    block = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU())
    block[1].register_forward_hook(lambda module, args, out: 2 * out)
    assert type(stages(block)[0]) is CompiledConvolutions
    x = Rng("hooked").uniform((1, 1, 16, 24, 24))
    torch.testing.assert_close(Lanes([block])(x)[0], block(x[0]), atol=1e-5, rtol=1e-5)


def test_nothing_is_compiled_for_heads_that_have_no_use_for_it(monkeypatch):
    def refuse():
        raise AssertionError("compiled")

    monkeypatch.setattr("benchmark.lane_compiled.usable", refuse)
    for cut in ("pool1", "pool2"):
        stages(split(network(MODELS["mnist_net"], (1, 28, 28), 10, Rng(0)), cut).head)


def test_code_that_computes_something_else_than_pytorch_is_not_used(monkeypatch):
    monkeypatch.setattr("benchmark.compiled.agreement._APART", {torch.float32: -1.0, torch.bfloat16: -1.0})
    monkeypatch.setattr("benchmark.lane_compiled.usable", usable.__wrapped__)
    found = stages(nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()))
    assert CompiledConvolutions not in map(type, found)


def test_agreement_does_not_depend_on_the_mode_in_which_it_is_asked_for():
    with torch.inference_mode(), torch.autocast("cpu"):
        assert usable.__wrapped__()


@pytest.mark.parametrize(
    ("x", "kernel", "how", "told"),
    [
        ((2, 1, 16, 8, 8), (2, 16, 32, 3, 3), Convolved(), "not for 2 lanes of 16 channels"),
        ((3, 1, 16, 8, 8), (2, 16, 16, 3, 3), Convolved(), "not for 3 lanes"),
        ((1, 0, 16, 8, 8), (1, 16, 16, 3, 3), Convolved(), "1 and 0"),
        ((1, 1, 16, 2, 2), (1, 16, 16, 3, 3), Convolved(), "smaller than a kernel of 3x3"),
        ((1, 1, 3, 2, 2), (1, 16, 3, 3, 3), Convolved(True, stride=2), "smaller than a kernel of 3x3"),
        ((1, 1, 16, 3, 3), (1, 16, 16, 3, 3), Convolved(pooled=True), "or the pooling"),
        ((1, 1, 16, 8, 8), (1, 16, 16, 5, 5), Convolved(), "not one that was compiled"),
        ((1, 1, 16, 8, 8), (1, 24, 16, 3, 3), Convolved(), "not one that was compiled"),
        ((1, 1, 16, 8, 8), (1, 16, 16, 3, 3), Convolved(stride=2), "not one that was compiled"),
        ((1, 1, 3, 8, 8), (1, 16, 3, 3, 3), Convolved(True, pooled=True), "not one that was compiled"),
        ((1, 1, 15, 8, 8), (1, 16, 15, 3, 3), Convolved(True), "not one that was compiled"),
        ((1, 16, 8, 8), (1, 16, 16, 3, 3), Convolved(), "images should be"),
    ],
)
def test_what_the_code_cannot_do_never_reaches_it(x, kernel, how, told):
    with pytest.raises(ValueError, match=told):
        convolved(torch.zeros(x), [how], [(torch.zeros(kernel), None)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8])
def test_images_of_other_numbers_never_reach_it(dtype):
    lanes = Lanes([nn.Sequential(nn.Conv2d(3, 16, 3))])
    with pytest.raises(ValueError, match="float32 numbers on the CPU"):
        lanes(torch.zeros((1, 1, 3, 32, 32), dtype=dtype))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_from_the_first_convolution_of_few_outputs_on_others_do_the_work(precision, monkeypatch):
    heads = [split(network(MODELS["cifar_net"], (3, 16, 16), 10, Rng(seed)), "pool2").head for seed in range(2)]
    x, lanes = Rng("x").uniform((2, 1, 3, 16, 16)), Lanes(heads, precision)
    found = outputs_of(lanes, x)
    assert "_Convolved" in str(graph(lanes(x)))
    monkeypatch.setattr("benchmark.lane_compiled.usable", lambda: False)
    without = Lanes(heads, precision)
    assert "_Convolved" not in str(graph(without(x)))
    most = 1e-4 if precision == "float32" else 2**-5
    for mine, theirs in zip(found, outputs_of(without, x), strict=True):
        torch.testing.assert_close(mine, theirs, atol=most, rtol=most)
    torch.testing.assert_close(lanes.frozen()(x), without.frozen()(x), atol=most, rtol=most)


def outputs_of(lanes, x):
    return lanes(x).detach(), lanes.at(x)().detach()


def graph(out):
    """Names of all functions behind a tensor."""
    left, found = [out.grad_fn], []
    while left:
        node = left.pop()
        if node is not None:
            found.append(type(node).__name__)
            left += [following for following, _ in node.next_functions]
    return found


def test_in_bfloat16_everything_up_to_a_dense_layer_is_one_stage():
    head = split(network(MODELS["cifar_net"], (3, 16, 16), 10, Rng(0)), "flatten").head
    assert [type(stage) for stage in stages(head, "bfloat16")] == [CompiledConvolutions, PerSample]
