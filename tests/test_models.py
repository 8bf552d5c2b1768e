from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.models import cifar_net, cuts, mnist_net, network, split
from benchmark.seeds import Rng

MNIST = (1, 28, 28)


def parameter_shapes(whole: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in whole.named_parameters()}


def test_mnist_net_has_the_published_shapes() -> None:
    shapes = parameter_shapes(network(mnist_net, MNIST, 10, Rng("a")))
    weights = {name: shape for name, shape in shapes.items() if name.endswith("weight")}
    assert weights == {
        "conv1.weight": (8, 1, 5, 5),
        "conv2.weight": (16, 8, 5, 5),
        "fc1.weight": (120, 256),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }


def test_cifar_net_has_the_published_number_of_weights() -> None:
    whole = network(cifar_net, (3, 32, 32), 10, Rng("a"))
    assert sum(parameter.numel() for parameter in whole.parameters()) == 1_609_546


def test_cuts_come_shallowest_first_with_their_depth_in_weight_layers() -> None:
    depths = cuts(network(mnist_net, MNIST, 10, Rng("a")))
    assert (depths["conv1"], depths["pool1"], depths["pool2"], depths["fc1"]) == (1, 1, 2, 3)
    assert "fc3" not in depths


def test_the_parts_of_a_split_compute_what_the_whole_network_computes() -> None:
    whole = network(mnist_net, MNIST, 10, Rng("a"))
    x = Rng("x").uniform((3, *MNIST))
    assert torch.equal(split(whole, "pool1", "fc3").evaluate(x), whole(x))


def test_initial_weights_depend_on_the_name_of_their_stream_alone() -> None:
    torch.manual_seed(1)
    first = network(mnist_net, MNIST, 10, Rng("a", 0))
    torch.manual_seed(2)
    second = network(mnist_net, MNIST, 10, Rng("a", 0))
    other = network(mnist_net, MNIST, 10, Rng("a", 1))
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_building_a_network_leaves_the_global_stream_where_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    network(mnist_net, MNIST, 10, Rng("a"))
    assert torch.equal(torch.rand(1), expected)


def test_an_unknown_cut_is_refused_with_the_list_of_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"cut 'pol1' does not exist.*conv1, relu1, pool1.*did you mean 'pool1'"):
        split(network(mnist_net, MNIST, 10, Rng("a")), "pol1")


def test_an_unknown_tail_is_refused_with_the_list_of_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"tail 'fc9' does not exist.*fc3"):
        split(network(mnist_net, MNIST, 10, Rng("a")), "pool1", "fc9")


def test_a_tail_that_leaves_the_server_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="leaves the server nothing behind cut 'pool2'"):
        split(network(mnist_net, MNIST, 10, Rng("a")), "pool2", "flatten")


def test_a_module_that_works_in_place_is_refused() -> None:
    def overwriting(shape: tuple[int, int, int], n_classes: int) -> OrderedDict[str, nn.Module]:
        return OrderedDict(conv=nn.Conv2d(1, 2, 3), relu=nn.ReLU(inplace=True), out=nn.Flatten())

    with pytest.raises(UserError, match="module 'relu' works in place"):
        network(overwriting, MNIST, 10, Rng("a"))


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(UserError, match="12x12 are too small"):
        network(mnist_net, (1, 12, 12), 10, Rng("a"))
