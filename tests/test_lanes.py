import pytest
import torch
from torch import nn

from attacks.inversion.alternate import alternate
from attacks.inversion.schedule import Schedule
from benchmark.lane_layers import Anything, Convolution, Dense, PerSample
from benchmark.lane_pooling import PooledConvolution
from benchmark.lanes import Lanes, adam, bytes_per_lane, chunks, stages
from benchmark.models import MODELS, network, split
from benchmark.seeds import Rng, isolated
from tests.server_views import clone, head, images


class Doubled(nn.Module):
    """A module of somebody else's making, with a weight, a buffer and a shape of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("shift", torch.full((1,), 0.25))

    def forward(self, x):
        return 2 * self.scale * x + self.shift


class Branching(nn.Module):
    """Control flow that depends on the data, which vmap cannot batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight if x.mean() > 0 else -x * self.weight


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + torch.relu(self.inner(x))


HEADS = {
    "grouped, strided, dilated": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, 8, 3, groups=2, dilation=2, bias=False)
    ),
    "padded by name and by reflection": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 5, padding="same"), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
    ),
    "pooled at once": lambda: nn.Sequential(nn.Conv2d(1, 3, 5), nn.MaxPool2d(2)),
    "pooled, padded, odd, without bias": lambda: nn.Sequential(
        nn.Conv2d(1, 3, (5, 6), padding=(1, 2), bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid()
    ),
    "pooled, several channels": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 5, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
    ),
    "pooled, a stride left over": lambda: nn.Sequential(nn.Conv2d(1, 3, (6, 5)), nn.MaxPool2d(2)),
    "overlapping pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(3, stride=2, ceil_mode=True)
    ),
    "normalised": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.GroupNorm(2, 8)),
    "dropout": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout(0.5)),
    "dense": lambda: nn.Sequential(nn.Linear(28, 5), nn.Flatten(), nn.Linear(140, 7, bias=False)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Sequential(nn.ReLU())), nn.AvgPool2d(2)),
    "somebody's module": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), Doubled(), Residual()),
    "branching": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), Branching()),
    "no sequence": lambda: nn.Conv2d(1, 2, 3),
    "no weights": lambda: nn.Sequential(nn.Flatten()),
}


def made(name, seed):
    with isolated(Rng(name, seed)):
        return HEADS[name]()


@pytest.mark.parametrize("name", HEADS)
class TestEveryKindOfHead:
    def test_gives_each_lane_its_own_output(self, name):
        heads = [made(name, seed) for seed in range(3)]
        x = images(6).unflatten(0, (3, 2))
        found = Lanes(heads)(x)
        expected = torch.stack([module.eval()(x[lane]) for lane, module in enumerate(heads)])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def test_gives_each_lane_its_own_gradients(self, name):
        heads = [made(name, seed).eval() for seed in range(3)]
        lanes = Lanes(heads)
        # Away from a black background, where windows tie and any of the four may get the gradient.
        x = Rng("inputs").uniform((3, 2, 1, 28, 28)).requires_grad_(True)
        out = lanes(x)
        weights = Rng("upstream").normal(out.shape)
        (out * weights).sum().backward()
        for lane, module in enumerate(heads):
            own = x[lane].detach().requires_grad_(True)
            (module(own) * weights[lane]).sum().backward()
            torch.testing.assert_close(x.grad[lane], own.grad, atol=1e-4, rtol=1e-4)
            for key, parameter in module.named_parameters():
                torch.testing.assert_close(lanes.parameters[key].grad[lane], parameter.grad, atol=1e-3, rtol=1e-4)

    def test_gives_the_same_with_inputs_or_weights_fixed(self, name):
        lanes = Lanes([made(name, seed) for seed in range(2)])
        x = images(4).unflatten(0, (2, 2))
        expected = lanes(x)
        torch.testing.assert_close(lanes.at(x)(), expected)
        torch.testing.assert_close(lanes.frozen()(x), expected)

    def test_gives_back_a_lane_as_a_module(self, name):
        heads = [made(name, seed).eval() for seed in range(2)]
        x = images(2)
        torch.testing.assert_close(Lanes(heads).head(1)(x), heads[1](x))


def test_a_gradient_step_changes_every_lane_as_it_would_alone():
    x = images(4).unflatten(0, (2, 2))

    def stepped(lanes, inputs):
        optimiser = adam(lanes.parameters.values(), 1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            lanes(inputs).square().sum().backward()
            optimiser.step()
        return lanes.parameters["conv1.weight"]

    together = stepped(Lanes([clone("conv1", 0), clone("conv1", 1)]), x)
    for lane in range(2):
        alone = stepped(Lanes([clone("conv1", lane)]), x[lane : lane + 1])
        torch.testing.assert_close(together[lane], alone[0], atol=1e-6, rtol=0)


def test_lanes_do_not_share_weights_with_the_heads_they_were_made_of():
    module = clone("conv1")
    lanes = Lanes([module, module])
    with torch.no_grad():
        lanes.parameters["conv1.weight"][0] = 0
    assert module.conv1.weight.abs().sum() > 0
    assert lanes.parameters["conv1.weight"][1].abs().sum() > 0


def test_a_returned_head_does_not_follow_its_lane():
    lanes = Lanes([clone("conv1")])
    module = lanes.head(0)
    with torch.no_grad():
        lanes.parameters["conv1.weight"].zero_()
    assert module.conv1.weight.abs().sum() > 0


def test_inputs_that_stay_fixed_get_no_gradient_and_weights_that_do_neither():
    lanes = Lanes([clone("pool1")])
    x = images(1).unsqueeze(0).requires_grad_(True)
    lanes.at(x)().sum().backward()
    assert x.grad is None
    lanes.frozen()(x).sum().backward()
    assert x.grad is not None
    before = lanes.parameters["conv1.weight"].grad.clone()
    lanes.frozen()(x).sum().backward()
    assert torch.equal(lanes.parameters["conv1.weight"].grad, before)


def test_of_tied_outputs_the_first_gets_the_gradient_as_in_max_pooling():
    module = clone("pool1")
    constant = torch.full((1, 1, 28, 28), 0.5, requires_grad=True)
    module(constant).sum().backward()
    stacked = torch.full((1, 1, 1, 28, 28), 0.5, requires_grad=True)
    Lanes([module])(stacked).sum().backward()
    torch.testing.assert_close(stacked.grad[0], constant.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (
            lambda: split(network(MODELS["mnist_net"], (1, 28, 28), 10, Rng(0)), "pool2").head,
            [PooledConvolution, Convolution, PerSample, PerSample],
        ),
        (lambda: split(network(MODELS["mnist_net"], (1, 28, 28), 10, Rng(0)), "relu1").head, [Convolution, PerSample]),
        (lambda: HEADS["dense"](), [Dense, PerSample, Dense]),
        (lambda: HEADS["somebody's module"](), [Convolution, Anything, Anything]),
    ],
)
def test_known_layers_run_without_vmap(module, kinds):
    with isolated(Rng("kinds")):
        assert [type(stage) for stage in stages(module())] == kinds


def test_a_module_with_a_hook_is_left_to_run_itself():
    module = clone("conv1")
    module.conv1.register_forward_hook(lambda module, args, out: 2 * out)
    x = images(1)
    torch.testing.assert_close(Lanes([module])(x.unsqueeze(0))[0], module(x))


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_an_error_of_the_module_itself_is_raised(error):
    class Broken(nn.Module):
        def forward(self, x):
            raise error("broken by itself")

    with pytest.raises(error, match="broken by itself"):
        Lanes([nn.Sequential(Broken())])(images(1).unsqueeze(0))


class TestIndependence:
    """A lane's outcome depends neither on the number nor the order nor the chunk of the lanes beside it."""

    @staticmethod
    def outcomes(cut, order, jitter, chunk):
        starts = 0.5 + jitter * Rng("jitter").normal((5, 1, 1, 28, 28))
        targets = torch.stack([head(cut, lane)(images(5)[lane : lane + 1]).detach() for lane in range(5)])
        found = {}
        plan = Schedule(1, 10, 10, 1e-3, 1e-3, 0.1, 1.0, 1)
        for at in range(0, len(order), chunk):
            part = order[at : at + chunk]
            lanes = Lanes([clone(cut, lane) for lane in part])
            outcome = alternate(lanes, starts[part], targets[part], plan, lambda fraction: None)
            weights = [torch.cat([value[i].flatten() for value in lanes.parameters.values()]) for i in range(len(part))]
            found |= {lane: torch.cat([outcome.images[-1, i].flatten(), weights[i]]) for i, lane in enumerate(part)}
        return torch.stack([found[lane] for lane in sorted(order)]).detach()

    @pytest.mark.parametrize(
        ("cut", "jitter", "mean", "maximum"),
        [
            ("conv1", 0.0, 1e-5, 1e-5),
            ("relu1", 0.0, 1e-5, 1e-5),
            ("pool1", 0.0, 1e-4, 1e-2),
            ("pool1", 0.01, 1e-5, 1e-5),
            ("conv2", 0.01, 1e-5, 1e-5),
            ("pool2", 0.0, 1e-4, 1e-2),
            ("pool2", 0.01, 1e-5, 1e-5),
        ],
    )
    @pytest.mark.parametrize(("order", "chunk"), [([0, 1, 2, 3, 4], 1), ([4, 2, 0, 1, 3], 5), ([3, 1, 0, 4, 2], 2)])
    def test_the_first_twenty_steps(self, cut, jitter, mean, maximum, order, chunk):
        together = self.outcomes(cut, [0, 1, 2, 3, 4], jitter, 5)
        difference = (self.outcomes(cut, order, jitter, chunk) - together).abs()
        assert difference.mean() <= mean
        assert difference.max() <= maximum


@pytest.mark.parametrize(
    ("n_lanes", "lane_bytes", "memory", "expected"),
    [(5, 10, 100, [5]), (5, 10, 30, [2, 3]), (7, 10, 35, [2, 2, 3]), (3, 10, 1, [1, 1, 1]), (4, 0, 1, [2, 2])],
)
def test_chunks_fit_the_memory_and_are_nearly_equal(n_lanes, lane_bytes, memory, expected):
    runs = chunks(n_lanes, lane_bytes, memory)
    if lane_bytes:
        assert [len(run) for run in runs] == expected
    assert [lane for run in runs for lane in run] == list(range(n_lanes))


@pytest.mark.parametrize("cut", ["conv1", "pool1", "pool2"])
def test_the_memory_of_a_lane_is_not_underestimated_nor_wildly_over(cut):
    x = images(10)
    lanes = Lanes([clone(cut, lane) for lane in range(4)])
    targets = torch.stack([head(cut)(x).detach()] * 4)
    starts = torch.stack([x] * 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        alternate(lanes, starts, targets, Schedule(1, 2, 2, 1e-3, 1e-3, 0.1, 1.0, 1), lambda fraction: None)
    estimate = 4 * bytes_per_lane(clone(cut), x)
    total, peak = 0, 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    assert peak <= estimate <= 6 * peak


def test_in_bfloat16_only_the_products_of_convolutions_are_rounded():
    heads, x = [clone("relu1", lane) for lane in range(2)], images(4).unflatten(0, (2, 2)).requires_grad_(True)
    exact, rounded = Lanes(heads)(x), Lanes(heads, "bfloat16")(x)
    assert rounded.dtype == torch.float32
    # Eight bits: a relative error of at most 2^-9 in each factor.
    difference = (rounded - exact).abs().max()
    assert 0 < difference < 2**-6 * exact.abs().max()
    lanes = Lanes(heads, "bfloat16")
    gradients = torch.autograd.grad(lanes(x).sum(), [x, *lanes.parameters.values()])
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_lanes_pad_as_their_heads_do(mode):
    heads = [nn.Sequential(nn.Conv2d(1, 2, 5, padding=2, padding_mode=mode), nn.ReLU(), nn.MaxPool2d(2)) for _ in "ab"]
    x = images(4).unflatten(0, (2, 2))
    expected = torch.stack([head(each) for head, each in zip(heads, x, strict=True)])
    torch.testing.assert_close(Lanes(heads)(x), expected, rtol=0, atol=1e-6)
