from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.labels.groups import likeliest, log_likelihoods, regrouped
from benchmark.seeds import Rng

CLASSES, EACH = 4, 15
TRUTH = torch.arange(CLASSES).repeat(EACH)
KNOWN = torch.arange(CLASSES)
ALL = torch.cat([TRUTH, KNOWN])


def rows(noise: float, seed: int = 0, d: int = 12, labels: Tensor = TRUTH) -> Tensor:
    """Samples around a centre a class, known ones behind the others."""
    rng = Rng("rows", seed)
    centres = rng.normal((CLASSES, d)).double()[torch.cat([labels, KNOWN])]
    return centres + noise * rng.normal((len(ALL), d)).double()


def kernel(samples: Tensor) -> Tensor:
    return samples @ samples.T


def accuracy(kernels: list[Tensor], start: Tensor) -> float:
    return float((regrouped(kernels, start, KNOWN, CLASSES) == TRUTH).double().mean())


def mostly_right(wrong: int, seed: int = 0) -> Tensor:
    start = TRUTH.clone()
    at = Rng("wrong", seed).permutation(len(TRUTH))[:wrong]
    start[at] = (start[at] + 1) % CLASSES
    return start


def test_samples_join_the_group_they_lie_in() -> None:
    assert accuracy([kernel(rows(0.3))], mostly_right(20)) == 1.0


def test_a_source_of_noise_alone_is_outweighed_however_large_its_numbers() -> None:
    noise = 1e3 * Rng("noise").normal((len(ALL), 12)).double()

    assert accuracy([kernel(rows(0.3)), kernel(noise)], mostly_right(20)) >= 0.98


def test_sources_that_none_suffices_of_add_up() -> None:
    sources = [kernel(rows(1.2, seed)) for seed in range(6)]

    alone = max(accuracy([source], mostly_right(25)) for source in sources)

    assert accuracy(sources, mostly_right(25)) == 1.0 > alone


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_turning_and_scaling_one_source_changes_nothing(seed: int, scale: float) -> None:
    turn = torch.linalg.qr(Rng("turn", seed).normal((12, 12)).double())[0]
    one, other = rows(0.8, 1), rows(0.8, 2)
    start = mostly_right(20, seed)

    plain = regrouped([kernel(one), kernel(other)], start, KNOWN, CLASSES)
    turned = regrouped([kernel(one), kernel(scale * other @ turn)], start, KNOWN, CLASSES)

    assert torch.equal(plain, turned)


def test_a_sample_that_a_source_says_nothing_of_is_judged_by_the_others() -> None:
    silent = rows(0.3, 1)
    silent[: len(TRUTH) // 2] = 0

    assert accuracy([kernel(rows(0.3)), kernel(silent)], mostly_right(15)) == 1.0
    assert torch.equal(log_likelihoods([torch.zeros(64, 64)], torch.eye(64)), torch.zeros(64, 64))


def test_no_sample_is_held_in_a_group_by_itself() -> None:
    # In so many dimensions of noise a mean that holds the sample is nearest to it.
    samples = rows(3.0, d=2000)
    drawn = Rng("drawn").integers(CLASSES, TRUTH.shape)

    likelihoods = log_likelihoods([kernel(samples)], one_hot(torch.cat([drawn, KNOWN]), CLASSES).double())

    assert (likelihoods[: len(TRUTH)].argmax(dim=1) == drawn).double().mean() < 0.6


def test_what_all_samples_share_lets_no_group_die_out() -> None:
    # Outputs of one body point much the same way, and noise leaves groups of one known sample each.
    shared = 30 * Rng("shared").normal((1, 12)).double()
    drawn = Rng("drawn").integers(CLASSES, TRUTH.shape)
    few = torch.where(drawn == 0, 1, drawn)

    plain, shifted = (regrouped([kernel(rows(2.0) + by)], few, KNOWN, CLASSES) for by in (0, shared))

    assert torch.equal(shifted, plain)
    assert len(shifted.unique()) == CLASSES


def test_of_several_groupings_the_true_one_is_likeliest() -> None:
    sources = [kernel(rows(1.0))[None]]
    drawn = TRUTH[Rng("drawn").permutation(len(TRUTH))]

    for groupings in ([drawn, TRUTH, mostly_right(10)], [TRUTH, drawn, mostly_right(10)]):
        assert torch.equal(likeliest(groupings, sources, KNOWN, CLASSES), TRUTH)


def test_views_that_repeat_one_another_outvote_no_other_source() -> None:
    misled = mostly_right(15)
    clear, vague = kernel(rows(0.5))[None], kernel(rows(1.0, 1, labels=misled))[None]

    for views in (1, 20):
        repeated = vague.expand(views, -1, -1)
        assert torch.equal(likeliest([misled, TRUTH], [clear, repeated], KNOWN, CLASSES), TRUTH)


def test_views_that_differ_add_up() -> None:
    misled = mostly_right(15)
    clear = kernel(rows(0.5, 1, labels=misled))[None]
    views = torch.stack([kernel(rows(1.0, seed)) for seed in range(2, 22)])

    assert torch.equal(likeliest([misled, TRUTH], [clear, views[:1]], KNOWN, CLASSES), misled)
    assert torch.equal(likeliest([misled, TRUTH], [clear, views], KNOWN, CLASSES), TRUTH)


def test_where_nothing_is_seen_the_first_grouping_stands() -> None:
    assert torch.equal(likeliest([mostly_right(5), TRUTH], [torch.zeros(1, 64, 64)], KNOWN, CLASSES), mostly_right(5))
