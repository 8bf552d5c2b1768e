from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from benchmark.data import Dataset
from benchmark.errors import PluginError, UserError
from benchmark.metrics.stealing import random_clone_scores, smashed_by, steal_advantage, steal_scores
from benchmark.models import mnist_net, network, split
from benchmark.seeds import Rng

SHARES = st.floats(0, 1)


def fresh(seed: int) -> nn.Sequential:
    return network(mnist_net, (1, 28, 28), 10, Rng("network", seed))


@pytest.fixture(scope="module")
def victim(digits: Dataset) -> nn.Sequential:
    whole = fresh(0)
    optimiser = torch.optim.Adam(whole.parameters(), lr=2e-3)
    for batch in torch.split(Rng("batches").permutation(len(digits.victim)), 64):
        optimiser.zero_grad()
        F.cross_entropy(whole(digits.victim.images[batch]), digits.victim.labels[batch]).backward()
        optimiser.step()
    return whole.requires_grad_(False)


def test_the_clients_own_head_steals_everything(victim: nn.Sequential, digits: Dataset) -> None:
    parts = split(victim, "pool1")
    scores = steal_scores(copy.deepcopy(parts.head), parts, digits.test)
    true = (victim(digits.test.images).argmax(1) == digits.test.labels).sum().item() / 1000
    assert true > 0.6
    assert scores == {"steal_accuracy": true, "steal_agreement": 1, "victim_accuracy": true}


def test_a_clone_is_scored_in_front_of_the_true_body_and_the_true_tail(victim: nn.Sequential, digits: Dataset) -> None:
    vanilla = steal_scores(fresh(1)[:3], split(victim, "pool1"), digits.test)
    u_shaped = steal_scores(fresh(1)[:3], split(victim, "pool1", "fc2"), digits.test)
    mixed = nn.Sequential(OrderedDict([*fresh(1)[:3].named_children(), *victim[3:].named_children()]))
    assert vanilla == u_shaped
    assert vanilla["steal_accuracy"] == (mixed(digits.test.images).argmax(1) == digits.test.labels).sum().item() / 1000


def test_agreement_counts_shared_mistakes_too(victim: nn.Sequential, digits: Dataset) -> None:
    parts = split(victim, "pool1")
    wrong = victim(digits.test.images).argmax(1) != digits.test.labels
    scores = steal_scores(parts.head, parts, digits.test.select(wrong.nonzero().flatten()))
    assert (scores["steal_accuracy"], scores["steal_agreement"]) == (0, 1)


def test_random_clones_score_the_mean_of_each(victim: nn.Sequential, digits: Dataset) -> None:
    parts = split(victim, "pool1")
    heads = [fresh(seed)[:3] for seed in range(1, 4)]
    alone = [steal_scores(head, parts, digits.test)["steal_accuracy"] for head in heads]
    together = random_clone_scores([smashed_by(head, digits.test) for head in heads], parts, digits.test)
    assert together["steal_accuracy"] == pytest.approx(sum(alone) / 3)
    assert together["steal_accuracy"] < together["victim_accuracy"] - 0.2


def test_clones_are_scored_in_evaluation_mode_and_left_in_theirs(victim: nn.Sequential, digits: Dataset) -> None:
    parts = split(victim, "pool1")
    clone = nn.Sequential(copy.deepcopy(parts.head), nn.Dropout(0.9))
    assert steal_scores(clone, parts, digits.test)["steal_agreement"] == 1
    assert clone[1].training


def test_a_clone_of_another_shape_is_the_attacks_fault(victim: nn.Sequential, digits: Dataset) -> None:
    with pytest.raises(PluginError, match=r"clone returned .* \(250, 8, 24, 24\) .* sends \(250, 8, 12, 12\)"):
        steal_scores(fresh(1)[:2], split(victim, "pool1"), digits.test)


def test_a_clone_that_is_not_finite_is_the_attacks_fault(victim: nn.Sequential, digits: Dataset) -> None:
    clone = fresh(1)[:3]
    with torch.no_grad():
        clone[0].weight.fill_(torch.nan)
    with pytest.raises(PluginError, match="clone returned NaN"):
        steal_scores(clone, split(victim, "pool1"), digits.test)


def test_the_random_control_needs_a_head(victim: nn.Sequential, digits: Dataset) -> None:
    with pytest.raises(UserError, match="at least one fresh head"):
        random_clone_scores([], split(victim, "pool1"), digits.test)


def test_nothing_is_scored_on_an_empty_part(victim: nn.Sequential, digits: Dataset) -> None:
    with pytest.raises(UserError, match="empty part"):
        steal_scores(fresh(1)[:3], split(victim, "pool1"), digits.test.select(torch.arange(0, device="cpu")))


@given(SHARES, SHARES, SHARES)
def test_the_advantage_is_a_share_of_what_there_is_to_steal(clone: float, random: float, victim: float) -> None:
    advantage = steal_advantage(clone, random, victim)
    if victim <= random:
        assert advantage is None
    else:
        assert advantage is not None
        assert 0 <= advantage <= 1
        assert steal_advantage(random, random, victim) == 0
        assert steal_advantage(victim, random, victim) == 1


def test_the_advantage_is_linear_between_random_clone_and_victim() -> None:
    assert steal_advantage(0.75, 0.25, 0.875) == pytest.approx(0.8)
