"""An independent classifier that reads reconstructions: does one show what its private image shows?

In the manner of the attack accuracy of model inversion (Zhang, Jia, Pei, Wang, Li and Song, 2020, "The secret
revealer"): the share of reconstructions that a classifier, trained apart from the victim, gives the private image's
label. It is trained once per data set, by the harness, on the auxiliary part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from benchmark.cell import content_key
from benchmark.errors import UserError
from benchmark.seeds import Rng, isolated
from benchmark.tensors import BrokenFileError, load_tensors, save_tensors

if TYPE_CHECKING:
    from benchmark.data import Dataset, Part
    from benchmark.models import ImageShape

# Raise it when architecture or training change: what was cached before is then trained again.
RECOGNISER_VERSION = 1
BATCH = 32
PASSES = 10
FEWEST_STEPS, MOST_STEPS = 300, 3000
LEARNING_RATE = 6e-3
WIDTH = 16
# What training varies: an aligned reconstruction is blurred, pale, noisy and a little out of place.
TURN, ZOOM, SHIFT = 0.17, 0.1, 0.14
BLUR, PALEST, OFFSET, NOISE = 1.5, 0.2, 0.3, 0.15


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A trained classifier of one data set's images, in evaluation mode, on the CPU.

    Attributes:
        network: Standardised images [n, channels, height, width] to logits [n, classes].
    """

    network: nn.Module

    def labels(self, images: Tensor) -> Tensor:
        """Labels read off images, [n], int64, on the CPU.

        Args:
            images: [n, channels, height, width], any device and finite range: each is standardised first, so that
                brightness and contrast do not matter.
        """
        with torch.no_grad():
            found = [
                self.network(_standardised(x)).argmax(dim=1) for x in torch.split(images.detach().float().cpu(), 500)
            ]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device="cpu")

    def recognised(self, images: Tensor, labels: Tensor) -> list[float]:
        """For each image 1 where its label is read off it, else 0.

        Args:
            images: As in `labels`; reconstructions as they are scored, aligned to their truth.
            labels: True ones, [n], int64.
        """
        return (self.labels(images) == labels.cpu()).double().tolist()


def obtain_recogniser(dataset: Dataset, cache: Path) -> Recogniser:
    """The data set's recogniser, from the cache where it is whole, otherwise trained and cached.

    Processes may race: each writes the same file, whole.

    Args:
        dataset: Its auxiliary part is trained on, without images that the victim or test part has too.
        cache: Folder of the cached weights.

    Raises:
        UserError: As `trained_weights`.
    """
    path = cache / f"{recogniser_key(dataset)}.safetensors"
    network = recogniser_network(dataset.image_shape, dataset.n_classes, Rng("recogniser", "shape"))
    weights = _cached(path)
    if weights is None:
        weights = _trained(dataset)
        save_tensors(path, weights, {"recogniser of": dataset.name})
    network.load_state_dict(weights)
    return Recogniser(network.eval().requires_grad_(False))


@lru_cache(maxsize=2)
def _trained(dataset: Dataset) -> dict[str, Tensor]:
    # Another cache folder is no reason to train the same data set again in the same process.
    return trained_weights(unseen(dataset), dataset.n_classes, Rng("recogniser", dataset.digest))


def recogniser_key(dataset: Dataset) -> str:
    """Content key of a data set's recogniser, 64 hex digits."""
    return content_key("recogniser", {"version": RECOGNISER_VERSION, "dataset": dataset.digest})


def recogniser_network(image_shape: ImageShape, n_classes: int, rng: Rng) -> nn.Module:
    """Freshly initialised: three 3x3 convolutions, a 4x4 grid of averages and a linear layer; for images of any size.

    Args:
        image_shape: (channels, height, width).
        n_classes: Number of labels.
        rng: Names the initial weights.
    """
    channels = image_shape[0]
    with isolated(rng):
        return nn.Sequential(
            nn.Conv2d(channels, WIDTH, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * WIDTH, 4 * WIDTH, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * 4 * WIDTH, n_classes),
        )


def unseen(dataset: Dataset) -> Part:
    """The auxiliary part without images that stand, pixel for pixel, in the victim or test part too.

    Raises:
        UserError: Nothing is left.
    """
    targets = {image for part in (dataset.victim, dataset.test) for image in _pixels(part)}
    kept = [position for position, image in enumerate(_pixels(dataset.auxiliary)) if image not in targets]
    if not kept:
        raise UserError(
            f"data set {dataset.name}: every auxiliary image stands in the victim or test part too, so that no "
            "independent classifier can be trained; give it auxiliary images of their own"
        )
    return dataset.auxiliary.select(torch.tensor(kept, device="cpu"))


def trained_weights(part: Part, n_classes: int, rng: Rng, steps: int | None = None) -> dict[str, Tensor]:
    """Train on a part; always on the CPU, so that the weights do not depend on the device.

    Args:
        part: Images and labels; not empty.
        n_classes: Number of labels.
        rng: Names initial weights, batches and variations.
        steps: Gradient steps of `BATCH` images; by default `PASSES` passes over the part, within bounds.

    Returns:
        The network's state.
    """
    images, labels = part.images.cpu(), part.labels.cpu()
    channels, height, width = images.shape[1:]
    network = recogniser_network((channels, height, width), n_classes, rng.child("initial weights"))
    steps = steps or min(max(PASSES * len(part) // BATCH, FEWEST_STEPS), MOST_STEPS)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    batches, variations = rng.child("batches"), rng.child("variations")
    network.train()
    for _ in range(steps):
        at = batches.integers(len(part), (BATCH,))
        loss = functional.cross_entropy(network(_standardised(varied(images[at], variations))), labels[at])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return dict(network.state_dict())


def varied(images: Tensor, rng: Rng) -> Tensor:
    """Images as an attack could show them: turned, moved, blurred, pale, too dark or bright, noisy.

    Args:
        images: [n, channels, height, width], in [0, 1], on the CPU.
        rng: Draws what is done to each.

    Returns:
        The same shape, near [0, 1].
    """
    n = len(images)
    turn, zoom, across, down = (2 * rng.uniform((4, n)) - 1).unbind()
    turn, zoom = TURN * turn, 1 + ZOOM * zoom
    matrix = torch.stack(
        [
            torch.stack([zoom * turn.cos(), -zoom * turn.sin(), SHIFT * across], dim=1),
            torch.stack([zoom * turn.sin(), zoom * turn.cos(), SHIFT * down], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    x = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    sigma = BLUR * float(rng.uniform((1,)))
    blurred = torch.from_numpy(gaussian_filter(x.numpy(), (0.0, 0.0, sigma, sigma)))
    x = torch.where(_each(rng.uniform((n,))) < 0.5, blurred, x)
    gain, offset = PALEST + (1 - PALEST) * _each(rng.uniform((n,))), OFFSET * (2 * _each(rng.uniform((n,))) - 1)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (mean + gain * (x - mean) + offset).clamp(0, 1)
    # In proportion to what is left of the contrast: noise fainter than a pale image would teach nothing.
    return x + NOISE * gain * _each(rng.uniform((n,))) * rng.normal_like(x)


def _standardised(images: Tensor) -> Tensor:
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    spread = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    # A constant image stays constant: rounding is nothing to read.
    return torch.where(spread > 1e-6, centred / spread.clamp_min(1e-6), 0.0)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _pixels(part: Part) -> list[bytes]:
    return [image.tobytes() for image in (part.images * 255).round().to(torch.uint8).cpu().numpy()]


def _cached(path: Path) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        return load_tensors(path)[0]
    except BrokenFileError:
        # A cache is worth nothing but time: what is broken is made again.
        path.unlink(missing_ok=True)
        return None
