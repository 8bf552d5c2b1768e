from __future__ import annotations

from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.data import Dataset, Part
from benchmark.errors import PluginError, UserError
from benchmark.metrics.identification import (
    CANDIDATES,
    Lineup,
    explained_variance,
    identification_scores,
    lineup,
)
from benchmark.metrics.reconstruction import align
from benchmark.seeds import Rng


def part_of(images: Tensor) -> Part:
    n = len(images)
    return Part(images, torch.zeros(n, dtype=torch.int64), torch.arange(n))


def pictures(n: int, channels: int = 3, side: int = 12, name: str = "pictures") -> Tensor:
    return Rng(name).uniform((n, channels, side, side))


@pytest.fixture(scope="module")
def truth(digits: Dataset) -> Tensor:
    return digits.test.images[:10]


@pytest.fixture(scope="module")
def among(digits: Dataset, truth: Tensor) -> Lineup:
    return lineup(truth, digits.test, Rng("line-up"))


def rate(images: Tensor, among: Lineup) -> float:
    return fmean(identification_scores(images, among)["identified"])


def test_the_truth_identifies_every_target(truth: Tensor, among: Lineup) -> None:
    scores = identification_scores(truth, among)
    assert scores == {"identified": [1.0] * 10, "identification_rank": [1.0] * 10}


@given(gain=st.floats(1e-6, 1e6), offset=st.floats(-10, 10), negative=st.booleans())
@settings(max_examples=25, deadline=None)
def test_brightness_contrast_and_sign_do_not_matter(
    truth: Tensor, among: Lineup, gain: float, offset: float, negative: bool
) -> None:
    noisy = truth.double() + 0.8 * Rng("noise").normal_like(truth).double()
    moved = gain * ((-1) ** negative * noisy + offset)
    # Squares of correlations move by rounding; who is nearest must not.
    assert identification_scores(moved, among) == identification_scores(noisy, among)


def test_gains_of_single_channels_do_not_matter() -> None:
    truth = pictures(4)
    among = lineup(truth, part_of(torch.cat([truth, pictures(40, name="others")])), Rng("line-up"))
    shown = truth * torch.tensor([0.1, -1.0, 5.0]).view(3, 1, 1) + torch.tensor([0.0, 3.0, -2.0]).view(3, 1, 1)
    assert rate(shown, among) == 1.0


def test_a_constant_reconstruction_gets_chance(truth: Tensor, among: Lineup) -> None:
    scores = identification_scores(torch.full_like(truth, 0.3), among)
    assert scores["identified"] == [among.chance] * 10
    assert scores["identification_rank"] == [(1 + CANDIDATES) / 2] * 10


def test_noise_identifies_no_more_than_chance_allows(digits: Dataset) -> None:
    shown = digits.test.images[:200]
    among = lineup(shown, digits.test, Rng("many"))
    # 200 guesses of one in a hundred: more than eight hits happen once in a thousand times.
    assert rate(Rng("noise").uniform_like(shown), among) <= 8 / 200


def test_the_image_of_another_target_identifies_nobody(truth: Tensor, among: Lineup) -> None:
    assert rate(truth.roll(1, dims=0), among) == 0.0


def test_noise_on_the_truth_still_identifies_it_long_after_ssim_gave_up(truth: Tensor, among: Lineup) -> None:
    assert rate(truth + 0.5 * Rng("noise").normal_like(truth), among) == 1.0


def test_every_target_stands_beside_as_many_others(digits: Dataset, among: Lineup) -> None:
    assert among.candidates == CANDIDATES == 1 / among.chance
    assert among.admitted.sum(dim=1).tolist() == [CANDIDATES - 1] * 10


def test_duplicates_of_a_target_never_stand_beside_it() -> None:
    truth = pictures(3)
    others = pictures(5, name="others")
    # Equal, negative, and paler: none of them could be told from the target.
    part = part_of(torch.cat([truth, truth, 1 - truth, 0.5 * truth + 0.2, others]))
    among = lineup(truth, part, Rng("line-up"))
    # The five others and the two other targets with their six copies.
    assert among.candidates == 1 + 5 + 2 * 4
    assert rate(truth, among) == 1.0


def test_a_small_part_gives_a_small_lineup_and_a_larger_chance() -> None:
    truth = pictures(2)
    among = lineup(truth, part_of(torch.cat([truth, pictures(3, name="others")])), Rng("line-up"))
    assert (among.candidates, among.chance) == (5, 0.2)


def test_a_target_that_stands_alone_is_no_evidence() -> None:
    truth = pictures(1)
    among = lineup(truth, part_of(truth), Rng("line-up"))
    assert (rate(pictures(1, name="anything"), among), among.chance) == (1.0, 1.0)


def test_a_lineup_is_the_same_whatever_was_drawn_before(digits: Dataset, truth: Tensor, among: Lineup) -> None:
    assert torch.equal(lineup(truth, digits.test, Rng("line-up")).others, among.others)
    assert not torch.equal(lineup(truth, digits.test, Rng("another")).others, among.others)


def test_explained_variance_is_what_the_alignment_leaves_unexplained() -> None:
    image, candidate = 0.3 + 0.1 * pictures(1), 0.4 + 0.2 * pictures(1, name="candidate")
    # Mild enough that the alignment clamps nothing.
    aligned = align((candidate + 0.3 * image).double().numpy(), candidate.double().numpy())
    left = ((aligned - candidate.double().numpy()) ** 2).sum()
    centred = candidate.double() - candidate.double().mean(dim=(2, 3), keepdim=True)
    share = explained_variance((candidate + 0.3 * image).double(), candidate.double()).item()
    assert share == pytest.approx(1 - left / centred.square().sum().item(), abs=1e-9)


def test_a_share_lies_between_nothing_and_everything() -> None:
    images = torch.cat([pictures(5), torch.full((1, 3, 12, 12), 0.2), 1e30 * pictures(1), 1e-30 * pictures(1)]).double()
    shares = explained_variance(images, images)
    assert bool(((shares >= 0) & (shares <= 1 + 1e-12)).all())
    assert shares[5].tolist() == [0.0] * 8


def test_a_finding_of_another_shape_is_told_in_one_sentence(truth: Tensor, among: Lineup) -> None:
    with pytest.raises(PluginError, match="return one image a target"):
        identification_scores(truth[:3], among)


def test_a_finding_with_nan_is_refused(truth: Tensor, among: Lineup) -> None:
    with pytest.raises(PluginError, match="NaN or infinity"):
        identification_scores(truth * torch.nan, among)


def test_no_target_is_refused(digits: Dataset) -> None:
    with pytest.raises(UserError, match="at least one target"):
        lineup(digits.test.images[:0], digits.test, Rng("line-up"))
