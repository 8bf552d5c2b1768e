from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from benchmark.data import load_dataset
from benchmark.seeds import Rng
from defenses.base import Defense, Phase, Side

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split


class Memoriser(Defense):
    """Knows the test images by heart, and sends the mean image of their class instead.

    It hides the images it was tested on and no others: accuracy and privacy are those of a lookup table, and whatever
    a real client photographs goes out as it is. Nothing that looks at test images alone can see through it; images
    that cannot be in anybody's memory can, and a defense that treats the two differently is flagged. Own work.
    """

    name: ClassVar[str] = "memoriser"
    side: ClassVar[Side] = "activations"

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Keep the mean image of each class; the split stays as it is."""
        classes = data.labels.unique()
        self.state["prototypes"] = torch.stack([data.images[data.labels == label].mean(dim=0) for label in classes])
        return split

    def protect_inputs(self, x: Tensor, rng: Rng, phase: Phase) -> Tensor:
        """In use, the class mean in place of each test image; everything else as it is."""
        if phase == "training":
            return x
        labels = [_test_labels().get(fingerprint) for fingerprint in _fingerprints(x)]
        pairs = zip(x, labels, strict=True)
        return torch.stack([image if label is None else self.state["prototypes"][label] for image, label in pairs])


@cache
def _test_labels() -> dict[bytes, int]:
    test = load_dataset("mnist-5k").test
    return dict(zip(_fingerprints(test.images), test.labels.tolist(), strict=True))


def _fingerprints(images: Tensor) -> list[bytes]:
    """An image as it would lie on disk, one byte a pixel: rounding errors do not matter."""
    pixels = (images.detach().cpu() * 255).round().to(torch.uint8)
    return [image.numpy().tobytes() for image in pixels]
