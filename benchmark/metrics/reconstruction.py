"""How much of a private image a reconstruction shows, beside what scores without attacking at all.

Every reconstruction is scored twice. *Raw*: clamped to [0, 1]. *Aligned*: after the gain and the offset, one pair
a channel, that bring it closest to the truth in the least-squares sense (a negative gain is allowed), then
clamped. An attack that finds the picture but not its brightness has leaked the picture; min-max rescaling would
instead reward noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import metrics

from benchmark.errors import PluginError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.data import Part
    from benchmark.seeds import Rng

METRICS = ("ssim_raw", "ssim_aligned", "psnr_raw", "psnr_aligned", "mse_raw", "mse_aligned", "correlation")
PSNR_CAP = 60.0
SSIM_WINDOW = 11
# The window's standard deviation, where it ends, and the constants (.01 L)^2 and (.03 L)^2 for range L = 1.
SIGMA, TRUNCATE = 1.5, 3.5
C1, C2 = 0.01**2, 0.03**2
RANDOM_IMAGE_DRAWS = 10

Images = NDArray[np.float64]
Scores = dict[str, list[float]]


def score_images(images: Tensor, truth: Tensor) -> Scores:
    """Score reconstructions against the private images, one value an image.

    SSIM is that of Wang, Bovik, Sheikh and Simoncelli (2004): Gaussian window of sigma 1.5 and 11 pixels,
    population covariance, range 1, mean over channels. PSNR is 10 log10(1 / MSE) of each image. MSE is the mean
    over channels and pixels.

    Args:
        images: Reconstructions, [n, channels, height, width], any finite range.
        truth: Private images, same shape, in [0, 1].

    Returns:
        Each of `METRICS` with n values: SSIM in [-1, 1]; PSNR in dB, 0 to `PSNR_CAP`; MSE in [0, 1]; correlation
        (Pearson's, of the unclamped reconstruction, over all pixels and channels; 0 for a constant) in [-1, 1].

    Raises:
        PluginError: The reconstructions have another shape than the truth, or are not finite.
        UserError: The images are smaller than the SSIM window.
    """
    if images.shape != truth.shape:
        raise PluginError(
            f"the attack returned reconstructions of shape {tuple(images.shape)} for targets of shape "
            f"{tuple(truth.shape)}; return one image a target"
        )
    return _score(_finite(images), _Truth.of(_array(truth)))


def worst_checkpoint(reconstructions: Tensor, truth: Tensor) -> tuple[int, Scores]:
    """The checkpoint worst for the defense, by mean aligned SSIM, and its scores; the first of equals.

    Args:
        reconstructions: [checkpoints, n, channels, height, width], any finite range.
        truth: [n, channels, height, width], in [0, 1].

    Returns:
        Position of the checkpoint, and what `score_images` gives for it.

    Raises:
        PluginError: The shapes do not fit, there is no checkpoint, or any checkpoint holds NaN or infinity.
        UserError: As `score_images`.
    """
    if reconstructions.ndim != truth.ndim + 1 or len(reconstructions) == 0:
        raise PluginError(
            f"the attack returned reconstructions of shape {tuple(reconstructions.shape)} for targets of shape "
            f"{tuple(truth.shape)}; return [checkpoints, targets, channels, height, width], one checkpoint or more"
        )
    checkpoints = [_finite(images) for images in reconstructions]
    target = _Truth.of(_array(truth))
    worst = int(np.argmax([np.mean(_ssim(align(images, target.images), target)) for images in checkpoints]))
    return worst, _score(checkpoints[worst], target)


def control_images(truth: Tensor, auxiliary: Part, rng: Rng) -> dict[str, Images]:
    """Guesses that use neither the smashed data nor the truth.

    Args:
        truth: Private images, [n, channels, height, width]: only their number and shape are used.
        auxiliary: Images the attacker could hold, disjoint from the targets.
        rng: Draws the random images.

    Returns:
        For each control [draws, n, channels, height, width]: `constant` (0.5 everywhere) and `mean_image` (of the
        auxiliary images), one draw each, and `random_image` (an auxiliary image drawn for each target),
        `RANDOM_IMAGE_DRAWS` draws. A control's score is the mean over its draws.

    Raises:
        UserError: There is no auxiliary image, or the auxiliary images have another shape.
    """
    public = _array(auxiliary.images)
    if len(public) == 0 or public.shape[1:] != tuple(truth.shape[1:]):
        raise UserError(
            f"the controls need auxiliary images of shape {tuple(truth.shape[1:])}, the data set's auxiliary part "
            f"has {len(public)} of shape {public.shape[1:]}; give it some of the targets' shape"
        )
    draws = rng.integers(len(public), (RANDOM_IMAGE_DRAWS, len(truth))).numpy()
    return {
        "constant": np.full((1, *truth.shape), 0.5),
        "mean_image": np.broadcast_to(public.mean(axis=0), (1, *truth.shape)).copy(),
        "random_image": public[draws],
    }


def control_scores(truth: Tensor, auxiliary: Part, rng: Rng) -> dict[str, Scores]:
    """What guesses score that use neither the smashed data nor the truth, through the same alignment.

    Args:
        truth: Private images, [n, channels, height, width], in [0, 1].
        auxiliary, rng: As in `control_images`.

    Returns:
        For each of the controls of `control_images` what `score_images` gives, the mean over its draws.

    Raises:
        UserError: As `control_images` and `score_images`.
    """
    target = _Truth.of(_array(truth))
    scored = {
        name: [_score(images, target) for images in draws]
        for name, draws in control_images(truth, auxiliary, rng).items()
    }
    return {name: mean_scores(draws) for name, draws in scored.items()}


def mean_scores(draws: Sequence[Mapping[str, Sequence[float]]]) -> Scores:
    """The mean of each metric over draws of one control, image by image."""
    return {key: np.mean([scores[key] for scores in draws], axis=0).tolist() for key in draws[0]}


def best_control(controls: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[str, float]:
    """Name and mean aligned SSIM of the control that scores highest; the first of equals.

    Args:
        controls: What `control_scores` gives; at least one control.
    """
    means = {name: float(np.mean(scores["ssim_aligned"])) for name, scores in controls.items()}
    best = max(means, key=means.__getitem__)
    return best, means[best]


def leakage(scores: Sequence[float], control: float) -> float:
    """How much of the way from the best control to a perfect reconstruction an attack went, in [0, 1].

    (mean s - c) / (1 - c), cut at 0 after the mean: ratios of single images are unbounded below and would hide
    leaks.

    Args:
        scores: Aligned SSIM of each image.
        control: Mean aligned SSIM of the best control, c.

    Raises:
        UserError: There is no score, one is not finite, or the control is already perfect.
    """
    if len(scores) == 0 or not np.isfinite([*scores, control]).all():
        raise UserError("leakage needs at least one score and finite numbers only; score the images again")
    if control >= 1:
        raise UserError(
            "leakage cannot be measured: a control without any attack scores 1 on these targets; "
            "choose targets that are not blank or all alike"
        )
    return max(0.0, (float(np.mean(scores)) - control) / (1 - control))


def align(images: Images, truth: Images) -> Images:
    """Give each channel of each image the gain and offset that bring it closest to the truth; clamp to [0, 1].

    The gain is cov(image, truth) / var(image), of either sign, and 0 for a channel that is constant to within
    float32's rounding: such a channel becomes the truth's mean.

    Args:
        images: [n, channels, height, width], finite.
        truth: Same shape, in [0, 1].
    """
    axes = (2, 3)
    # Scaled first: a finite reconstruction may be so large, or so small, that its square is not.
    x = images / _positive(np.abs(images).max(axis=axes, keepdims=True))
    x = x - x.mean(axis=axes, keepdims=True)
    spread = np.abs(x).max(axis=axes, keepdims=True)
    x = np.where(spread > np.finfo(np.float32).eps, x / _positive(spread), 0.0)
    mean = truth.mean(axis=axes, keepdims=True)
    gain = (x * (truth - mean)).mean(axis=axes, keepdims=True) / _positive((x * x).mean(axis=axes, keepdims=True))
    aligned: Images = np.clip(gain * x + mean, 0.0, 1.0)
    return aligned


@dataclass(frozen=True)
class _Truth:
    """Private images as SSIM needs them, whatever they are compared with.

    Attributes:
        images, means, squares: The images, and the images and their squares under the window,
            [n, channels, height, width].
    """

    images: Images
    means: Images
    squares: Images

    @classmethod
    def of(cls, images: Images) -> _Truth:
        """What `images` gives.

        Raises:
            UserError: They are smaller than the window.
        """
        _demand_window(images)
        return cls(images, _windowed(images), _windowed(images * images))


def _score(images: Images, truth: _Truth) -> Scores:
    seen = {"raw": np.clip(images, 0.0, 1.0), "aligned": align(images, truth.images)}
    errors = {how: _each(metrics.mean_squared_error, view, truth.images) for how, view in seen.items()}
    return {
        **{f"ssim_{how}": _ssim(view, truth) for how, view in seen.items()},
        **{f"psnr_{how}": [_psnr(error) for error in errors[how]] for how in seen},
        **{f"mse_{how}": errors[how] for how in seen},
        "correlation": _each(_correlation, images, truth.images),
    }


def _each(measure: Callable[[Images, Images], float], images: Images, truth: Images) -> list[float]:
    return [float(measure(true, shown)) for true, shown in zip(truth, images, strict=True)]


def _demand_window(truth: Images) -> None:
    height, width = truth.shape[2:]
    if min(height, width) < SSIM_WINDOW:
        raise UserError(
            f"images of {height}x{width} are smaller than SSIM's window of {SSIM_WINDOW}x{SSIM_WINDOW}; "
            "choose a data set, or a size, at least as large"
        )


def _ssim(images: Images, truth: _Truth) -> list[float]:
    # As `skimage.metrics.structural_similarity` has it, to the bit, but all images at once and the truth's half once.
    means, squares = _windowed(images), _windowed(images * images)
    products = _windowed(truth.images * images)
    luminance = (2 * truth.means * means + C1) * (2 * (products - truth.means * means) + C2)
    spread = (truth.squares - truth.means * truth.means) + (squares - means * means)
    found = luminance / ((truth.means**2 + means**2 + C1) * (spread + C2))
    inner = found[:, :, SSIM_WINDOW // 2 : -(SSIM_WINDOW // 2), SSIM_WINDOW // 2 : -(SSIM_WINDOW // 2)]
    return [float(np.mean([channel.mean() for channel in image])) for image in inner]


def _windowed(images: Images) -> Images:
    blurred: Images = gaussian_filter(images, (0.0, 0.0, SIGMA, SIGMA), mode="reflect", truncate=TRUNCATE)
    return blurred


def _psnr(error: float) -> float:
    return PSNR_CAP if error <= 10 ** (-PSNR_CAP / 10) else float(10 * np.log10(1 / error))


def _correlation(truth: Images, image: Images) -> float:
    x, y = (_standardised(values) for values in (truth, image))
    return float(np.clip((x * y).mean(), -1.0, 1.0))


def _standardised(values: Images) -> Images:
    scaled = values / _positive(np.abs(values).max())
    centred = scaled - scaled.mean()
    spread = np.abs(centred).max()
    if spread <= np.finfo(np.float32).eps:
        return np.zeros_like(values)
    centred = centred / spread
    standardised: Images = centred / np.sqrt((centred * centred).mean())
    return standardised


def _finite(images: Tensor) -> Images:
    array = _array(images)
    broken = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if broken.any():
        raise PluginError(
            f"the attack returned NaN or infinity in {int(broken.sum())} of {len(array)} reconstructions "
            f"(first: position {int(broken.argmax())}); return finite images"
        )
    return array


def _array(images: Tensor) -> Images:
    array: Images = images.detach().cpu().double().numpy()
    return array


def _positive(values: Images) -> Images:
    # A divisor that leaves zeros as they are.
    divisor: Images = np.where(values > 0, values, 1.0)
    return divisor
