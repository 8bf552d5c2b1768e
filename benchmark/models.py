"""Networks with named modules, and how one is cut into head, body and tail.

`mnist_net` and `cifar_net` have the shapes of the networks that UnSplit was published with (Erdogan, Kupcu and Cicek,
2022): same layers, same order, same sizes. No module works in place: smashed data must stay what was sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.parameters import nearest
from benchmark.seeds import Rng, isolated

if TYPE_CHECKING:
    from torch import Tensor

ImageShape = tuple[int, int, int]
Factory = Callable[[ImageShape, int], "OrderedDict[str, nn.Module]"]


def mnist_net(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
    """Two 5x5 convolutions with pooling, three fully connected layers; 45 278 weights at 1x28x28 and 10 classes."""
    channels, height, width = image_shape
    side = [((n - 4) // 2 - 4) // 2 for n in (height, width)]
    if min(side) < 1:
        raise UserError(f"model mnist_net: images of {height}x{width} are too small; it needs at least 16x16")
    return OrderedDict(
        conv1=nn.Conv2d(channels, 8, kernel_size=5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(8, 16, kernel_size=5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * side[0] * side[1], 120),
        fc1act=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        fc2act=nn.ReLU(),
        fc3=nn.Linear(84, n_classes),
    )


def mnist_net_4x4(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
    """`mnist_net` with kernels of 4x4: what an attacker takes it for who is one off; at 28x28 every pooling agrees."""
    channels, height, width = image_shape
    side = [((n - 3) // 2 - 3) // 2 for n in (height, width)]
    if min(side) < 1:
        raise UserError(f"model mnist_net_4x4: images of {height}x{width} are too small; it needs at least 13x13")
    return OrderedDict(
        conv1=nn.Conv2d(channels, 8, kernel_size=4),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(8, 16, kernel_size=4),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * side[0] * side[1], 120),
        fc1act=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        fc2act=nn.ReLU(),
        fc3=nn.Linear(84, n_classes),
    )


def cifar_net(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
    """Three pairs of 3x3 convolutions with pooling, two fully connected layers; 1 609 546 weights at 3x32x32."""
    channels, height, width = image_shape
    if min(height, width) < 8:
        raise UserError(f"model cifar_net: images of {height}x{width} are too small; it needs at least 8x8")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for block, (entering, leaving) in enumerate(((channels, 64), (64, 128), (128, 128)), start=1):
        for layer, (inward, outward) in enumerate(((entering, leaving), (leaving, leaving)), start=1):
            modules[f"conv{block}{layer}"] = nn.Conv2d(inward, outward, kernel_size=3, padding=1)
            modules[f"relu{block}{layer}"] = nn.ReLU()
        modules[f"pool{block}"] = nn.MaxPool2d(2)
    modules["flatten"] = nn.Flatten()
    modules["fc1"] = nn.Linear(128 * (height // 8) * (width // 8), 512)
    modules["fc1act"] = nn.Sigmoid()
    modules["fc2"] = nn.Linear(512, n_classes)
    return modules


MODELS: dict[str, Factory] = {"mnist_net": mnist_net, "mnist_net_4x4": mnist_net_4x4, "cifar_net": cifar_net}


def network(factory: Factory, image_shape: ImageShape, n_classes: int, rng: Rng) -> nn.Sequential:
    """A freshly initialised network on the CPU; its weights depend on `rng`'s name alone.

    Raises:
        UserError: A module works in place, or the factory gives no named modules.
    """
    with isolated(rng):
        modules = factory(image_shape, n_classes)
    if not modules:
        raise UserError(f"model {_named(factory)}: the factory returned no modules; return an OrderedDict of them")
    for name, module in modules.items():
        if any(getattr(part, "inplace", False) for part in module.modules()):
            raise UserError(
                f"model {_named(factory)}: module {name!r} works in place and would overwrite the smashed data; "
                "build it with inplace=False"
            )
    return nn.Sequential(OrderedDict(modules))


def cuts(whole: nn.Sequential) -> dict[str, int]:
    """Every module the head can end with, shallowest first, and its depth in weight layers.

    The last module is left out, because the server needs a part of its own.
    """
    depth, depths = 0, {}
    for name, module in whole.named_children():
        depth += any(True for _ in module.parameters())
        depths[name] = depth
    return dict(list(depths.items())[:-1])


@dataclass(frozen=True)
class Split:
    """A network cut in two or three.

    Attributes:
        head: The client's first layers, up to and with the module `cut`.
        body: The server's layers.
        tail: The client's last layers, from the module `tail_name` on, or None in the vanilla topology.
        cut: Name of the head's last module.
        tail_name: Name of the tail's first module, or None.
    """

    head: nn.Module
    body: nn.Module
    tail: nn.Module | None
    cut: str
    tail_name: str | None = None

    def parts(self) -> dict[str, nn.Module]:
        """The parts by name, `head`, `body` and, where there is one, `tail`."""
        named = {"head": self.head, "body": self.body, "tail": self.tail}
        return {name: part for name, part in named.items() if part is not None}

    def to(self, device: torch.device) -> Split:
        """The same split with every part moved to `device`."""
        tail = None if self.tail is None else self.tail.to(device)
        return replace(self, head=self.head.to(device), body=self.body.to(device), tail=tail)

    def evaluate(self, x: Tensor) -> Tensor:
        """Logits of the undefended network for images `x` ([n, channels, height, width])."""
        return self.behind_head(self.head(x))

    def behind_head(self, smashed: Tensor) -> Tensor:
        """Logits of what follows the head, for smashed data ([n, ...])."""
        logits: Tensor = self.body(smashed)
        return logits if self.tail is None else self.tail(logits)


def split(whole: nn.Sequential, cut: str, tail: str | None = None) -> Split:
    """Cut a network after the module `cut` and, for the u-shaped topology, before the module `tail`.

    The parts share their modules with `whole`.

    Raises:
        UserError: A name does not exist, or nothing is left for the server.
    """
    names = [name for name, _ in whole.named_children()]
    end = _position(cut, list(cuts(whole)), "cut") + 1
    start = len(names) if tail is None else _position(tail, names, "tail")
    if start <= end:
        allowed = ", ".join(names[end + 1 :])
        raise UserError(f"tail {tail!r} leaves the server nothing behind cut {cut!r}; choose one of: {allowed}")
    parts = [
        nn.Sequential(OrderedDict(list(whole.named_children())[first:last]))
        for first, last in ((0, end), (end, start), (start, len(names)))
    ]
    return Split(parts[0], parts[1], parts[2] if tail is not None else None, cut, tail)


def _position(name: str, allowed: Sequence[str], key: str) -> int:
    if name not in allowed:
        raise UserError(
            f"{key} {name!r} does not exist in this model; choose one of: {', '.join(allowed)}"
            + nearest(name, list(allowed))
        )
    return list(allowed).index(name)


def _named(factory: Factory) -> str:
    return getattr(factory, "__name__", repr(factory))
