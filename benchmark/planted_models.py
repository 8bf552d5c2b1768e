"""Networks whose client hides nothing: what an attack has to succeed on before its failures count.

Each is a factory of named modules like those of `benchmark.models`, with a head of one module: the images
themselves, or one convolution. What follows is the server's, a small network that learns from either, but for the
last module, `tail`: one linear layer, which a client with private labels keeps.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from benchmark.models import ImageShape

KERNEL = 3
CHANNELS = 8
SIDE = 6
UNITS = 64


def identity_client(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
    """The client sends its images as they are."""
    return OrderedDict(identity=nn.Identity(), **_server(image_shape[0], n_classes))


def convolution_client(image_shape: ImageShape, n_classes: int) -> OrderedDict[str, nn.Module]:
    """The client sends one 3x3 convolution of its images, eight channels for each of theirs.

    A convolution across colours could be told from no other that mixes them first: whoever does not know it
    reconstructs colours up to an unknown mixture. So each output channel looks at one colour.
    """
    channels = image_shape[0]
    layer = nn.Conv2d(channels, CHANNELS * channels, KERNEL, groups=channels)
    return OrderedDict(convolution=layer, **_server(CHANNELS * channels, n_classes))


def _server(channels: int, n_classes: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(SIDE),
        flatten=nn.Flatten(),
        hidden=nn.Linear(channels * SIDE * SIDE, UNITS),
        hidden_relu=nn.ReLU(),
        tail=nn.Linear(UNITS, n_classes),
    )
