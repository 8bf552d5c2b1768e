import pytest
import torch
from torch import nn

from benchmark.lane_layers import PerSample
from benchmark.lane_pooling import PooledConvolution
from benchmark.lane_rounded import RoundedConvolutions
from benchmark.lanes import Lanes, stages
from benchmark.models import MODELS, network, split
from benchmark.seeds import Rng
from tests.server_views import clone


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    monkeypatch.setattr("benchmark.lane_compiled.usable", lambda: False)


def of(cut, seed):
    return split(network(MODELS["cifar_net"], (3, 16, 16), 10, Rng(seed)), cut).head


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 19)])
def test_layers_that_stay_rounded_give_the_same_numbers_as_layers_one_by_one(size):
    heads = [of("pool1", seed) for seed in range(2)]
    lanes, x = Lanes(heads, "bfloat16"), Rng("x").uniform((2, 3, 3, *size)).requires_grad_(True)
    apart = x
    for name, layer in heads[0].named_children():
        names = {id(value): f"{name}.{own}" for own, value in layer.named_parameters()}
        stage = RoundedConvolutions([layer], names) if names else PerSample(layer)
        apart = stage.combine(stage.weights(lanes.parameters), apart)
    together = lanes(x)
    assert torch.equal(together, apart)
    upstream, unknown = Rng("upstream").normal(apart.shape), [x, *lanes.parameters.values()]
    found, expected = (torch.autograd.grad(out, unknown, upstream) for out in (together, apart))
    torch.testing.assert_close(found, expected)


def test_everything_up_to_a_dense_layer_stays_rounded_in_one_stage():
    assert [type(stage) for stage in stages(of("pool2", 0), "bfloat16")] == [RoundedConvolutions]
    kinds = [type(stage) for stage in stages(of("flatten", 0), "bfloat16")]
    assert kinds == [RoundedConvolutions, PerSample]


def test_convolutions_that_are_pooled_in_one_product_are_not_rounded():
    assert [type(stage) for stage in stages(clone("pool2"), "bfloat16")] == [PooledConvolution, RoundedConvolutions]
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 5), nn.ReLU(), nn.MaxPool2d(2))
    assert [type(stage) for stage in stages(block, "bfloat16")] == [RoundedConvolutions, PooledConvolution]


def test_a_hooked_layer_ends_what_stays_rounded():
    head = of("relu11", 0)
    head.relu11.register_forward_hook(lambda module, args, out: 2 * out)
    x = Rng("hooked").uniform((1, 1, 3, 16, 16))
    torch.testing.assert_close(Lanes([head], "bfloat16")(x)[0], head(x[0]), atol=2**-6, rtol=2**-6)
