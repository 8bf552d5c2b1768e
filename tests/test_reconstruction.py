from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from benchmark.data import Dataset
from benchmark.errors import PluginError, UserError
from benchmark.metrics.reconstruction import (
    METRICS,
    best_control,
    control_scores,
    leakage,
    score_images,
    worst_checkpoint,
)
from benchmark.parts import Part
from benchmark.seeds import Rng

SEEDS = st.integers(0, 2**32)
GAINS = st.floats(1e-3, 1e3).flatmap(lambda size: st.sampled_from([size, -size]))


def pictures(seed: int, n: int = 2, channels: int = 1, side: int = 16) -> torch.Tensor:
    return Rng("pictures", seed).uniform((n, channels, side, side)).double()


def one(images: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    return {key: values[0] for key, values in score_images(images, truth).items()}


def part(images: torch.Tensor) -> Part:
    numbers = torch.arange(len(images), device="cpu")
    return Part(images, torch.zeros_like(numbers), numbers)


def ssim_of_one_window(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 13 of Wang et al. (2004) for 11x11 pixels, written out."""
    weights = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    total = sum(map(sum, weights))
    cells = [(weights[i][j] / total, x[i, j], y[i, j]) for i in range(11) for j in range(11)]
    mean_x, mean_y = (sum(cell[0] * cell[k] for cell in cells) for k in (1, 2))
    var_x = sum(w * (a - mean_x) ** 2 for w, a, _ in cells)
    var_y = sum(w * (b - mean_y) ** 2 for w, _, b in cells)
    cov = sum(w * (a - mean_x) * (b - mean_y) for w, a, b in cells)
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


@pytest.mark.parametrize("seed", range(5))
def test_ssim_of_eleven_pixels_is_the_formula_of_its_one_window(seed: int) -> None:
    truth, image = pictures(seed, side=11), pictures(seed + 100, side=11)
    expected = [ssim_of_one_window(t[0].numpy(), i[0].numpy()) for t, i in zip(truth, image, strict=True)]
    assert score_images(image, truth)["ssim_raw"] == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([(1, 28, 28), (3, 32, 32), (1, 11, 11), (3, 24, 40)]))
def test_ssim_is_scikit_images_to_the_bit(seed: int, shape: tuple[int, int, int]) -> None:
    truth = Rng("truth", seed).uniform((3, *shape))
    images = truth + 0.3 * Rng("noise", seed).normal((3, *shape))
    images[0] = 0.5
    seen = images.double().clamp(0, 1).numpy()
    expected = [
        structural_similarity(
            true, shown, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=0
        )
        for true, shown in zip(truth.double().numpy(), seen, strict=True)
    ]
    assert score_images(images, truth)["ssim_raw"] == expected


def test_ssim_of_colour_is_the_mean_over_channels() -> None:
    truth, image = pictures(1, n=1, channels=3), pictures(2, n=1, channels=3)
    alone = [one(image[:, c : c + 1], truth[:, c : c + 1])["ssim_aligned"] for c in range(3)]
    assert one(image, truth)["ssim_aligned"] == pytest.approx(np.mean(alone), abs=1e-12)


def test_a_blank_image_of_a_digit_scores_what_was_measured_elsewhere(digits: Dataset) -> None:
    # .153 and .0035 were measured on one MNIST digit; digits differ in how much ink they have.
    truth = digits.test.images[::10]
    assert np.mean(score_images(torch.zeros_like(truth), truth)["ssim_raw"]) == pytest.approx(0.153, abs=0.1)
    assert np.mean(score_images(torch.full_like(truth, 0.5), truth)["ssim_raw"]) == pytest.approx(0.0035, abs=0.02)


@given(SEEDS, st.sampled_from([1, 3]))
@settings(max_examples=20, deadline=None)
def test_the_truth_itself_scores_perfectly_by_every_metric(seed: int, channels: int) -> None:
    truth = pictures(seed, n=1, channels=channels)
    perfect = {"ssim": 1, "psnr": 60, "mse": 0}
    expected = {f"{metric}_{how}": value for metric, value in perfect.items() for how in ("raw", "aligned")}
    assert one(truth, truth) == pytest.approx({**expected, "correlation": 1}, abs=1e-9)


@given(SEEDS, GAINS, st.floats(-100, 100))
@settings(max_examples=40, deadline=None)
def test_aligned_scores_do_not_change_with_brightness_and_contrast(seed: int, gain: float, offset: float) -> None:
    truth, image = pictures(seed), pictures(seed + 1)
    before, after = score_images(image, truth), score_images(gain * image + offset, truth)
    for key in ("ssim_aligned", "psnr_aligned", "mse_aligned"):
        assert after[key] == pytest.approx(before[key], abs=1e-6)


@given(SEEDS, GAINS, st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_alignment_never_raises_the_squared_error(seed: int, gain: float, offset: float) -> None:
    truth = pictures(seed)
    image = gain * pictures(seed + 1) + offset
    unclamped = (image - truth).square().mean(dim=(1, 2, 3)).tolist()
    aligned = score_images(image, truth)["mse_aligned"]
    assert all(a <= u + 1e-12 for a, u in zip(aligned, unclamped, strict=True))


def test_every_channel_is_aligned_by_itself() -> None:
    truth = pictures(3, n=1, channels=3)
    gains, offsets = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ([2, -3, 0.1], [5, -1, 0]))
    assert one(gains * truth + offsets, truth)["ssim_aligned"] == pytest.approx(1, abs=1e-9)


def test_alignment_is_not_shared_between_images() -> None:
    truth = pictures(4, n=2)
    image = truth * torch.tensor([1.0, -7.0], dtype=torch.float64).view(2, 1, 1, 1)
    assert score_images(image, truth)["ssim_aligned"] == pytest.approx([1, 1], abs=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_alignment_finds_the_picture_at_any_finite_scale(scale: float) -> None:
    truth = pictures(5).float()
    assert score_images(truth * scale, truth)["ssim_aligned"] == pytest.approx([1, 1], abs=1e-5)


def test_a_constant_is_aligned_to_the_mean_of_the_truth() -> None:
    truth = pictures(6, n=1)
    scores = one(torch.full_like(truth, 7.3), truth)
    assert scores["mse_aligned"] == pytest.approx(float(truth.var(correction=0)), abs=1e-12)
    assert scores["correlation"] == 0


def test_rounding_around_a_constant_is_not_taken_for_a_picture() -> None:
    truth = pictures(7, n=1).float()
    image = (1000 + 1e-5 * truth).float()
    assert len(image.unique()) <= 2
    assert one(image, truth)["mse_aligned"] == pytest.approx(float(truth.var(correction=0)), abs=1e-6)


def test_raw_scores_are_those_of_the_clamped_image() -> None:
    truth, image = pictures(8), 4 * pictures(9) - 2
    raw, clamped = score_images(image, truth), score_images(image.clamp(0, 1), truth)
    assert {key: raw[key] for key in METRICS if key.endswith("_raw")} == {
        key: clamped[key] for key in METRICS if key.endswith("_raw")
    }


def test_psnr_of_an_error_of_a_tenth_is_twenty_decibels() -> None:
    truth = pictures(10, n=1) * 0.8
    scores = one(truth + 0.1, truth)
    assert scores["mse_raw"] == pytest.approx(0.01)
    assert scores["psnr_raw"] == pytest.approx(20)


def test_psnr_ends_at_sixty_decibels() -> None:
    truth = pictures(11, n=1) * 0.9
    assert one(truth + 1e-4, truth)["psnr_raw"] == 60


def test_correlation_is_pearsons_over_all_pixels_and_channels() -> None:
    truth, image = pictures(12, n=1, channels=3), -5 * pictures(13, n=1, channels=3) + 2
    expected = np.corrcoef(truth.flatten().numpy(), image.flatten().numpy())[0, 1]
    assert one(image, truth)["correlation"] == pytest.approx(expected, abs=1e-12)


def test_images_smaller_than_the_window_are_refused_with_size_and_remedy() -> None:
    truth = torch.zeros((1, 1, 28, 10), device="cpu")
    with pytest.raises(UserError, match=r"28x10 are smaller than SSIM's window of 11x11; choose"):
        score_images(truth, truth)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reconstruction_that_is_not_finite_is_the_attacks_fault(value: float) -> None:
    truth = pictures(14, n=3)
    image = truth.clone()
    image[1, 0, 2, 2] = value
    with pytest.raises(PluginError, match=r"attack returned NaN or infinity in 1 of 3 .*position 1"):
        score_images(image, truth)


def test_a_reconstruction_of_another_shape_is_the_attacks_fault() -> None:
    with pytest.raises(PluginError, match=r"shape \(2, 1, 16, 16\) for targets of shape \(3, 1, 16, 16\)"):
        score_images(pictures(15, n=2), pictures(15, n=3))


def test_the_worst_checkpoint_is_the_one_that_shows_most_after_alignment() -> None:
    truth = pictures(16)
    noise = pictures(17)
    near = 0.1 * noise + 0.9 * truth
    found, scores = worst_checkpoint(torch.stack([noise, -near, near * 0.5 + 0.5 * noise]), truth)
    assert found == 1
    assert scores == score_images(-near, truth)


def test_of_equal_checkpoints_the_first_is_taken() -> None:
    truth = pictures(18)
    assert worst_checkpoint(torch.stack([truth, truth]), truth)[0] == 0


def test_a_broken_checkpoint_is_not_hidden_by_a_good_one() -> None:
    truth = pictures(19)
    with pytest.raises(PluginError, match="NaN"):
        worst_checkpoint(torch.stack([truth, truth * math.nan]), truth)


def test_no_checkpoint_at_all_is_the_attacks_fault() -> None:
    truth = pictures(20)
    with pytest.raises(PluginError, match="one checkpoint or more"):
        worst_checkpoint(truth[None][:0], truth)


def test_controls_are_scored_like_reconstructions(digits: Dataset) -> None:
    truth = digits.test.images[:4]
    controls = control_scores(truth, digits.auxiliary, Rng("controls"))
    assert set(controls) == {"constant", "mean_image", "random_image"}
    assert controls["constant"] == score_images(torch.full_like(truth, 0.5), truth)
    mean = digits.auxiliary.images.double().mean(dim=0)
    for key, values in score_images(mean.expand(4, -1, -1, -1), truth).items():
        assert controls["mean_image"][key] == pytest.approx(values, abs=1e-9)


def test_the_random_image_averages_over_draws_from_the_auxiliary_images() -> None:
    truth = pictures(21, n=1)
    twins = pictures(22, n=1).expand(5, -1, -1, -1)
    controls = control_scores(truth, part(twins), Rng("controls"))
    for key, values in score_images(twins[:1], truth).items():
        assert controls["random_image"][key] == pytest.approx(values)


def test_controls_depend_on_their_stream_alone(digits: Dataset) -> None:
    truth = digits.test.images[:3]
    first, again, other = (control_scores(truth, digits.auxiliary, Rng("controls", n)) for n in (0, 0, 1))
    assert first == again
    assert first["random_image"] != other["random_image"]


def test_a_random_digit_shows_less_than_half_of_another(digits: Dataset) -> None:
    name, mean = best_control(control_scores(digits.test.images[::50], digits.auxiliary, Rng("controls")))
    assert name in {"constant", "mean_image", "random_image"}
    assert 0 < mean < 0.5


def test_controls_without_auxiliary_images_are_refused() -> None:
    with pytest.raises(UserError, match="auxiliary part has 0"):
        control_scores(pictures(23), part(pictures(23)[:0]), Rng("controls"))


def test_the_best_control_has_the_highest_mean_aligned_ssim() -> None:
    controls = {"low": {"ssim_aligned": [0.1, 0.2]}, "high": {"ssim_aligned": [0.0, 0.5]}}
    assert best_control(controls) == ("high", 0.25)


@given(st.lists(st.floats(-1, 1), min_size=1), st.floats(-1, 0.99))
@settings(deadline=None)
def test_leakage_is_a_share_and_zero_at_the_control(scores: list[float], control: float) -> None:
    assert 0 <= leakage(scores, control) <= 1 + 1e-9
    assert leakage([control] * len(scores), control) == pytest.approx(0, abs=1e-9)
    assert leakage([1.0] * len(scores), control) == pytest.approx(1)


def test_leakage_is_cut_after_the_mean_and_not_before() -> None:
    assert leakage([0.9, 0.1], 0.2) == pytest.approx((0.5 - 0.2) / 0.8)


@pytest.mark.parametrize(
    ("scores", "control"), [([], 0.1), ([math.nan], 0.1), ([0.5], math.nan), ([0.5], 1.0)], ids=str
)
def test_leakage_that_cannot_be_measured_is_never_a_number(scores: list[float], control: float) -> None:
    with pytest.raises(UserError):
        leakage(scores, control)
