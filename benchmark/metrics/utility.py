"""What a defended victim is still worth, and what the split costs the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.metrics.evaluating import evaluating

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import ImageShape, Split

LABEL_BYTES = torch.int64.itemsize
# Images at a time.
BATCH = 250


def accuracy(predict: Callable[[Tensor], Tensor], part: Part, batch: int = BATCH) -> float:
    """Share of images whose label is predicted rightly, in [0, 1].

    Args:
        predict: Images [n, channels, height, width] to logits [n, classes].
        part: Images and labels; not empty.
        batch: Images at a time.

    Raises:
        UserError: The part is empty, or a logit is NaN.
    """
    return share_right(predicted(predict, part.images, batch), part)


def share_right(found: Tensor, part: Part) -> float:
    """Share of predicted labels ([n], any device) that are a part's own, in [0, 1].

    Raises:
        UserError: The part is empty.
    """
    if len(part) == 0:
        raise UserError("accuracy cannot be measured on an empty part; give the data set some test images")
    return float((found == part.labels.to(found.device)).double().mean())


def predicted(predict: Callable[[Tensor], Tensor], images: Tensor, batch: int = BATCH) -> Tensor:
    """Predicted labels, [n], int64: the position of each image's largest logit.

    Args:
        predict: Images [n, channels, height, width] to logits [n, classes].
        images: [n, channels, height, width].
        batch: Images at a time.

    Raises:
        UserError: A logit is NaN: the largest is not defined, and a NaN would count as an ordinary mistake.
    """
    labels = []
    with torch.no_grad():
        for x in torch.split(images, batch):
            logits = predict(x)
            if logits.isnan().any():
                raise UserError(
                    "the network predicts NaN; train it again with a lower learning rate or a weaker defense"
                )
            labels.append(logits.argmax(dim=1))
    return torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64, device=images.device)


def majority_accuracy(part: Part) -> float:
    """Accuracy of always predicting the part's most frequent label, in (0, 1].

    Raises:
        UserError: The part is empty.
    """
    if len(part) == 0:
        raise UserError("the majority cannot be taken of an empty part; give the data set some test images")
    return int(part.labels.bincount().max()) / len(part)


def parameter_count(module: nn.Module) -> int:
    """Number of weights, frozen ones included, buffers not; a shared weight counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def head_flops(head: nn.Module, image_shape: ImageShape) -> int:
    """Floating-point operations of the head's convolutions and matrix products for one image.

    A multiply-add counts as two; activations, pooling and additions of a bias are not counted.

    Args:
        head: The client's layers.
        image_shape: (channels, height, width).
    """
    # Importing it takes as long as reading a complete suite.
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        _smashed(head, image_shape)
    return int(counter.get_total_flops())


def smashed_bytes(head: nn.Module, image_shape: ImageShape) -> int:
    """Bytes of one image's smashed data.

    Args:
        head: The client's layers.
        image_shape: (channels, height, width).
    """
    return _bytes(_smashed(head, image_shape))


def wire_bytes(split: Split, image_shape: ImageShape) -> tuple[int, int]:
    """Bytes that one sample costs on the wire in one training step.

    Vanilla: smashed data and label go up, the gradient of the smashed data comes down. U-shaped: smashed data and
    cut gradient go up, the body's output and the gradient of the smashed data come down. Tensors are counted as
    they are sent, dense, whatever a defense could save by coding them.

    Args:
        split: Head, body and, in the u-shaped topology, tail.
        image_shape: (channels, height, width).

    Returns:
        Bytes up, client to server, and bytes down, server to client.
    """
    smashed = _smashed(split.head, image_shape)
    if split.tail is None:
        return _bytes(smashed) + LABEL_BYTES, _bytes(smashed)
    with evaluating(split.body), torch.no_grad():
        back = _bytes(split.body(smashed))
    return _bytes(smashed) + back, _bytes(smashed) + back


def _smashed(head: nn.Module, image_shape: ImageShape) -> Tensor:
    weight = next(head.parameters(), torch.empty(0, device="cpu"))
    with evaluating(head), torch.no_grad():
        smashed: Tensor = head(torch.zeros((1, *image_shape), dtype=torch.float32, device=weight.device))
    return smashed


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
