"""Draws the four pictures of docs/scoring.md, "Four ways to be misled", and prints the numbers under them.

unsplit-bench run docs/misleading/suite.yaml --fresh --output OUT
python docs/misleading/draw.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.data import load_dataset
from benchmark.metrics.reconstruction import align, leakage, score_images
from benchmark.record import Record
from benchmark.report.pictures import Reconstructed, reconstructed
from benchmark.rows import GOALS
from benchmark.standing import attack_score
from benchmark.store import Store

HERE = Path(__file__).parent
Images = NDArray[np.float64]
NOISES = {"gaussian_noise": "Gaussian", "laplace_noise": "Laplace"}
TENS = 2000


def main(output: Path) -> None:
    """Draw all four."""
    with Store(output / "store.sqlite") as store:
        records = [record for record in store.records("misleading") if record.status == "done"]
    kept = reconstructed(records, {"mnist-5k": load_dataset("mnist-5k")}, output / "reconstructions")
    (published,) = [one for one in kept if one.record.axes.defense == "none"]
    joint = [record for record in records if "joint" in record.axes.attack_params]
    decoded = [record for record in records if record.axes.attack == "inverse_decoder"]
    draw_raw_mse(published)
    draw_min_max(published)
    draw_one_seed(joint)
    draw_ten_images(decoded)


def scores(images: Images, truth: Images, metric: str) -> list[float]:
    """One value an image."""
    return score_images(torch.from_numpy(images), torch.from_numpy(truth))[metric]


def draw_raw_mse(found: Reconstructed) -> None:
    """The published attack's images against the mean auxiliary image, which knows nothing: alike by raw MSE."""
    raw = np.clip(found.images, 0, 1)
    mean = load_dataset("mnist-5k").auxiliary.images.double().mean(0).numpy()
    guess = np.broadcast_to(mean, raw.shape).copy()
    rows = [("private", found.truth), ("recovered", raw), ("mean digit", guess), ("aligned", align(raw, found.truth))]
    figure, axes = strip(rows)
    for name, images in rows[1:]:
        mse, ssim = (np.mean(scores(images, found.truth, metric)) for metric in ("mse_raw", "ssim_aligned"))
        print(f"raw MSE: {name}: mse_raw {mse:.3f}, ssim_aligned {ssim:.3f}")
    for row, metric in ((1, "mse_raw"), (2, "mse_raw"), (3, "ssim_raw")):
        for column, value in enumerate(scores(rows[row][1], found.truth, metric)):
            label = f"{'MSE' if metric == 'mse_raw' else 'SSIM'} {value:.2f}"
            axes[row][column].set_title(label, fontsize=7, y=-0.22)
    save(figure, "raw-mse.png")


def draw_min_max(found: Reconstructed) -> None:
    """One outlying pixel, and faint traces: what min-max scaling makes of either has little to do with a leak."""
    faint = 0.5 + 1e-3 * (found.truth - 0.5)
    spoilt = align(found.images, found.truth)
    spoilt[:, :, 0, 0] = 8.0
    rows = [("private", found.truth), ("one bad pixel", np.clip(spoilt, 0, 1)), ("min-max", min_max(spoilt))]
    rows += [("a trace of .001", faint), ("min-max", min_max(faint))]
    figure, axes = strip(rows)
    for row, (name, images) in enumerate(rows[1:], start=1):
        found_ssim = scores(images, found.truth, "ssim_raw")
        aligned = np.mean(scores(images, found.truth, "ssim_aligned"))
        print(f"min-max: {name}: ssim_raw {np.mean(found_ssim):.3f}, ssim_aligned {aligned:.3f}")
        for column, value in enumerate(found_ssim):
            axes[row][column].set_title(f"SSIM {value:.2f}", fontsize=7, y=-0.22)
    save(figure, "min-max.png")


def draw_one_seed(records: list[Record]) -> None:
    """Leakage of two defenses at five victims and four attack seeds each: a single pair ranks them either way."""
    figure = Figure(figsize=(7, 2.6), dpi=112, layout="constrained")
    panel = figure.subplots()
    found = {name: [r for r in records if r.axes.defense == name] for name in NOISES}
    values = {name: {(r.axes.seed, r.axes.attack_seed): leaked(r) for r in of} for name, of in found.items()}
    for place, (name, by_seed) in enumerate(values.items()):
        for (seed, attack_seed), value in by_seed.items():
            panel.plot(value, place + 0.08 * (seed - 2), "o", color=f"C{seed}", markersize=4 + attack_seed / 2)
        mean = np.mean(list(by_seed.values()))
        panel.plot([mean, mean], [place - 0.3, place + 0.3], color="black")
        print(f"one seed: {name}: mean {mean:.3f}, from {min(by_seed.values()):.3f} to {max(by_seed.values()):.3f}")
    panel.set_yticks(range(len(values)), [NOISES[name] for name in values])
    panel.set_xlabel("leakage, one victim and one attack seed a dot, a colour a victim")
    save(figure, "one-seed.png")
    first, second = (np.array(list(by_seed.values())) for by_seed in values.values())
    against = np.mean((first[:, None] - second[None]) * (first.mean() - second.mean()) < 0)
    print(f"one seed: {against:.0%} of pairs of single runs rank the two against their means")


def draw_ten_images(records: list[Record]) -> None:
    """Leakage over tens drawn from a hundred images: what a table of ten images could have said."""
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(7, 2.4), dpi=112, layout="constrained")
    panel = figure.subplots()
    draws = {}
    tens = np.array([rng.choice(100, 10, replace=False) for _ in range(TENS)])
    for record in sorted(records, key=lambda record: record.axes.defense):
        values = np.array(record.per_image["ssim_aligned"])
        control = max(np.mean(metrics["ssim_aligned"]) for metrics in record.controls.values())
        draws[record.axes.defense] = np.array([leakage(values[ten].tolist(), float(control)) for ten in tens])
        low, high = np.quantile(draws[record.axes.defense], [0.025, 0.975])
        name = NOISES[record.axes.defense]
        panel.hist(draws[record.axes.defense], bins=40, alpha=0.6, label=name)
        print(f"ten images: {name}: 100 images {leakage(values.tolist(), control):.3f}, tens {low:.3f} to {high:.3f}")
    panel.set_xlabel(f"leakage over ten of the hundred images, {TENS} draws")
    panel.set_yticks([])
    panel.legend(frameon=False)
    save(figure, "ten-images.png")
    one, other = draws.values()
    shuffled = rng.permutation(TENS)
    against = np.mean((one - other[shuffled]) * (one.mean() - other.mean()) < 0)
    print(f"ten images: {against:.0%} of pairs of different tens rank the two against their means")


def leaked(record: Record) -> float:
    """The leakage of one cell."""
    return attack_score([record], GOALS["reconstruct"]).score


def min_max(images: Images) -> Images:
    """Each image stretched to [0, 1] by its own extremes."""
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    stretched: Images = (images - low) / (high - low)
    return stretched


def strip(rows: list[tuple[str, Images]]) -> tuple[Figure, NDArray[np.object_]]:
    """A row of pictures for each name; the figure and its panels."""
    figure = Figure(figsize=(9, 0.95 * len(rows) + 0.1), dpi=112)
    panels = figure.subplots(len(rows), 10)
    figure.subplots_adjust(left=0.11, right=0.995, top=0.99, bottom=0.05, wspace=0.06, hspace=0.3)
    for row, (name, images) in enumerate(rows):
        place = panels[row][0].get_position()
        figure.text(0.005, (place.y0 + place.y1) / 2, name, fontsize=8, va="center")
        for panel, image in zip(panels[row], images, strict=False):
            panel.imshow(np.clip(image[0], 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_axis_off()
    return figure, panels


def save(figure: Figure, name: str) -> None:
    """Write a picture beside this file."""
    FigureCanvasAgg(figure).print_png(HERE / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
