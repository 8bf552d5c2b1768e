from __future__ import annotations

import pytest

from benchmark.cell import TRAINING_HOOKS
from benchmark.errors import UserError
from benchmark.models import cuts, mnist_net, network
from benchmark.seeds import Rng
from defenses.deeper_split import DeeperSplit

CUTS = list(cuts(network(mnist_net, (1, 28, 28), 10, Rng("cuts"))))


def test_the_cut_moves_to_the_one_named() -> None:
    assert DeeperSplit(to="pool2").moved_cut("pool1", CUTS) == "pool2"


@pytest.mark.parametrize("to", ["pool1", "relu1", "conv1"])
def test_a_cut_that_is_not_deeper_is_refused_with_those_that_are(to: str) -> None:
    with pytest.raises(UserError, match=rf"to='{to}' is not deeper than the cut 'pool1'; choose one of: conv2, relu2,"):
        DeeperSplit(to=to).moved_cut("pool1", CUTS)


def test_a_cut_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"to='pol2' does not exist in this model.*did you mean 'pool2'"):
        DeeperSplit(to="pol2").moved_cut("pool1", CUTS)


def test_behind_the_deepest_cut_nothing_is_deeper() -> None:
    with pytest.raises(UserError, match="there is none; ask for a shallower cut"):
        DeeperSplit(to="pool1").moved_cut(CUTS[-1], CUTS)


def test_it_must_be_said_where_to() -> None:
    with pytest.raises(UserError, match="deeper_split needs parameter 'to'"):
        DeeperSplit.configured({})


def test_it_takes_no_part_in_training_so_that_the_undefended_victim_serves() -> None:
    assert not any(DeeperSplit.overrides(hook) for hook in TRAINING_HOOKS)
