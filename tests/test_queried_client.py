from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attacks.base import Stance
from attacks.clients.queried_client import QueriedClient
from benchmark.seeds import Rng
from benchmark.view import Knowledge, Secrets, ServerView
from tests.server_views import images, view

AUXILIARY = 300


def noisy(sigma: float, gain: float = 1.0, stream: int = 0) -> Callable[[Tensor], Tensor]:
    rng = Rng("client", stream)
    return lambda x: gain * x + sigma * rng.normal_like(x)


def seen_by(query: Callable[[Tensor], Tensor], k: int) -> ServerView:
    sent = torch.stack([query(images(4)) for _ in range(k)])
    plain = view(n=4, smashed=sent, granted=frozenset({Knowledge.QUERY}))
    return dataclasses.replace(plain, _secrets=Secrets(query=query))


def asked(seen: ServerView, stance: Stance, queries: int = 40) -> QueriedClient:
    return QueriedClient(seen, images(AUXILIARY), stance, queries)


@pytest.mark.parametrize("stance", ["oblivious", "aware", "adaptive"])
def test_only_who_knows_of_the_noise_asks_again(stance: Stance) -> None:
    client = asked(seen_by(noisy(1.0), 3), stance)
    assert torch.equal(client.answers(), client.answers()) == (stance == "oblivious")


def test_an_adaptive_attacker_averages_as_many_queries_as_it_has_views() -> None:
    spread = [(asked(seen_by(noisy(1.0), 9), s).answers() - images(AUXILIARY)).std() for s in ("aware", "adaptive")]
    assert spread[0] == pytest.approx(1, rel=0.02)
    assert spread[1] == pytest.approx(1 / 3, rel=0.02)


def test_answers_mixed_from_others_have_their_mean_and_spread() -> None:
    client = asked(seen_by(noisy(2.0), 10), "adaptive", queries=40)
    errors = torch.stack([client.answers() - images(AUXILIARY) for _ in range(40)])
    fresh, mixed = errors[:4], errors[4:]
    assert mixed.std() == pytest.approx(float(fresh.std()), rel=0.02)
    assert mixed.mean().abs() < 0.01
    # Not one of them again, nor one close to it.
    assert min(float((m - f).std()) for m in mixed for f in fresh) > 0.5 * float(fresh.std())


@pytest.mark.parametrize("stance", ["oblivious", "aware", "adaptive"])
def test_targets_seen_ten_times_are_averaged(stance: Stance) -> None:
    seen = seen_by(noisy(1.0), 10)
    assert torch.allclose(asked(seen, stance).targets, seen.smashed.mean(dim=0), atol=1e-6)


def moved(gains: list[float], sigma: float) -> ServerView:
    seen = seen_by(noisy(sigma), len(gains))
    sent = torch.stack([noisy(sigma, gain, 1 + epoch)(images(4)) for epoch, gain in enumerate(gains)])
    return dataclasses.replace(seen, phase="training", smashed=sent)


def test_epochs_in_which_the_head_was_the_same_count_alike_under_noise() -> None:
    seen = moved([1.0] * 6, sigma=1.0)
    client = asked(seen, "adaptive")
    assert (client.targets - images(4)).std() < 1.1 / 6**0.5
    assert client.seen in (5, 6)


def test_an_epoch_in_which_the_head_was_another_does_not_count() -> None:
    seen = moved([-30.0, 1.0, 1.0], sigma=0.5)
    error = (asked(seen, "adaptive").targets - images(4)).square().mean().sqrt()
    assert error < 0.45


@pytest.mark.parametrize("stance", ["oblivious", "aware"])
def test_only_an_adaptive_attacker_uses_earlier_epochs(stance: Stance) -> None:
    seen = moved([1.0, 1.0, 1.0], sigma=1.0)
    assert torch.equal(asked(seen, stance).targets, seen.smashed[-1])


def test_without_noise_only_the_last_epoch_counts() -> None:
    seen = moved([0.9, 0.95, 1.0], sigma=0.0)
    assert torch.equal(asked(seen, "adaptive").targets, seen.smashed[-1])
