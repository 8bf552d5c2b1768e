"""What is timed, on real but tiny problems: the turns, the loops, the attacks and the small suites."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.errors import UserError
from benchmark.plan import plan
from benchmark.speed.attack_turns import AttackTurns
from benchmark.speed.convolutions import Convolutions, step
from benchmark.speed.joint import Search
from benchmark.speed.operations import operations
from benchmark.speed.plain_loop import PlainLoop, PlainTurns
from benchmark.speed.processes import Contestant, Enough, Program, Turn, Turns, race, result_of
from benchmark.speed.published import PublishedTurns
from benchmark.speed.scene import COLOUR, Scene
from benchmark.speed.scored import Scored
from benchmark.speed.setting import Setting
from benchmark.speed.suite_cost import BLOCK, MORE, STRENGTHS, of_share, with_strengths
from benchmark.speed.suite_runs import run_whole
from benchmark.speed.throughput import cifar, loop_seconds
from benchmark.speed.waiting import SMALL, Loading, loading
from benchmark.suite import read_suite

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# Each starts processes that import torch.
pytestmark = pytest.mark.slow

# In the shape of the published code, to be timed in its place: its names, and a sum instead of its work.
MODELS = """\
import torch
class MnistNet(torch.nn.Module):
    layers = {"conv1": 0, "pool1": 1}
    def forward(self, x, end):
        assert end == 1
        return x.mean((2, 3))
"""
ATTACKS = """\
def model_inversion_stealing(clone, end, target, size, main_iters, input_iters, model_iters):
    assert main_iters == 1 and tuple(size) == (1, 1, 28, 28) and not target.requires_grad
    assert clone(target.new_zeros(size), end=end).shape == target.shape
"""


class Told:
    """The other end of a program's turns, in this process: lets it go a number of times and keeps what it says."""

    def __init__(self, turns: int) -> None:
        self.left = turns
        self.said: list[Turn] = []

    def send(self, message: tuple[str, Turn]) -> None:
        if message[0] == "turn":
            self.said.append(message[1])

    def recv(self) -> str:
        self.left -= 1
        return "go" if self.left >= 0 else "stop"


def work_of(program: Program, turns: int) -> list[float]:
    """What a program counts in each of its first turns."""
    told = Told(turns)
    with pytest.raises(Enough):
        program.run(Turns(cast("Connection", told), 0.0))
    return [turn.work for turn in told.said]


UNHEARD = Turns(cast("Connection", Told(0)), 0.0)


@dataclass(frozen=True)
class Counting:
    """Does as much work a turn as it is told, and then returns."""

    work: float
    turns: int

    def run(self, turns: Turns) -> tuple[int, str]:
        turns.ready()
        for _ in range(self.turns):
            turns.did(self.work)
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


@dataclass(frozen=True)
class Failing:
    """Fails in its first turn."""

    def run(self, turns: Turns) -> None:
        turns.ready()
        raise ValueError("of\nno use")


def test_teams_are_timed_in_turns_and_the_first_round_does_not_count() -> None:
    teams = {
        "one": [Contestant("one", Counting(10.0, 9))],
        "two": [Contestant("first", Counting(20.0, 9))],
    }
    rates = race(teams, 2)
    assert {name: len(rate) for name, rate in rates.items()} == {"one": 2, "two": 2}
    assert all(rate > 0 for each in rates.values() for rate in each)


def test_a_program_has_the_threads_it_was_given_and_so_have_its_libraries() -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    contestant = Contestant("counting", Counting(1.0, 0), threads=2)
    try:
        contestant.wait_until_ready()
        contestant.go()
        assert contestant.result() == (2, "2")
    finally:
        contestant.stop()
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_a_program_that_fails_is_one_sentence_with_its_name() -> None:
    with pytest.raises(UserError, match="speed, the failing one: ValueError: of no use"):
        race({"team": [Contestant("the failing one", Failing())]}, 1)


def test_a_program_that_ends_too_soon_is_told_so() -> None:
    with pytest.raises(UserError, match="too few turns"):
        race({"team": [Contestant("short", Counting(1.0, 1))]}, 2)


def test_an_attack_is_counted_in_steps_on_images(tmp_path: Path) -> None:
    scene = Scene("mnist-5k", "mnist_net", "pool1", 1, str(tmp_path))
    spec = "unsplit:clone=per_target,rounds=8,input_steps=2,model_steps=3"
    # Ten targets, two and three steps a round.
    assert work_of(AttackTurns(spec, 8 * 5, scene), 3) == pytest.approx([50.0] * 3)


def test_an_attack_at_its_end_is_scored_at_every_checkpoint(tmp_path: Path) -> None:
    scene = Scene(COLOUR, "cifar_net", "conv11", 2, str(tmp_path))
    spec = "unsplit:clone=joint,rounds=2,checkpoints=2,input_steps=1,model_steps=1"
    scores = Scored(spec, scene).run(UNHEARD)
    assert len(scores) == 2
    assert all(-1 <= score <= 1 for score in scores)


def test_the_shortest_budget_that_reaches_a_score_is_found_and_run_alone(tmp_path: Path) -> None:
    scenes = [Scene("mnist-5k", "mnist_net", "pool1", 1, str(tmp_path), seed=seed) for seed in (0, 1)]
    spec = "unsplit:clone=joint,rounds={rounds},checkpoints={checkpoints},input_steps=5,model_steps=5,input_lr=0.02"
    found = Search(spec, scenes, -1.0, 3).run(UNHEARD)
    assert found.rounds == 1
    assert len(found.seconds) == len(found.scores) == 2
    never = Search(spec, scenes, 1.1, 2).run(UNHEARD)
    assert never.rounds is None
    assert never.seconds == ()


def test_the_plain_loop_steps_as_the_batched_attack_does(tmp_path: Path) -> None:
    # One target, one round: both start from a constant image and differ in rounding only.
    from attacks.inversion.alternate import alternate
    from attacks.inversion.schedule import Schedule
    from benchmark.lanes import Lanes

    torch.manual_seed(1)
    client, clone = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()) for _ in range(2))
    smashed = client(torch.rand(1, 1, 12, 12)).detach()
    lanes = Lanes([clone])
    loop = PlainLoop(clone, smashed, (1, 12, 12))
    loop.round(4)
    start = torch.full((1, 1, 1, 12, 12), 0.5)
    schedule = Schedule(1, 4, 4, 1e-3, 1e-3, 0.1, 1.0, 1)
    outcome = alternate(lanes, start, smashed.unsqueeze(0), schedule, lambda _: None)
    torch.testing.assert_close(outcome.images[0, 0], loop.image.detach(), atol=1e-5, rtol=0)
    for name, value in clone.named_parameters():
        torch.testing.assert_close(lanes.parameters[name][0].detach(), value.detach(), atol=1e-5, rtol=0)


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "unsplit").mkdir()
    (tmp_path / "unsplit" / "models.py").write_text(MODELS)
    (tmp_path / "unsplit" / "attacks.py").write_text(ATTACKS)
    # Programs have a process of their own and need not clean up; here they have not.
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("unsplit", "unsplit.models", "unsplit.attacks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_the_published_loop_is_imported_from_its_checkout(reference: Path) -> None:
    assert work_of(PublishedTurns(str(reference), "mnist_net", "pool1", (1, 28, 28), 7), 2) == [14, 14]


def test_a_checkout_that_cannot_be_imported_is_one_sentence(reference: Path) -> None:
    (reference / "unsplit" / "attacks.py").write_text("import a_module_that_nobody_has\n")
    with pytest.raises(UserError, match=r"--reference .*a_module_that_nobody_has"):
        PublishedTurns(str(reference), "mnist_net", "pool1", (1, 28, 28)).run(UNHEARD)


def test_the_loop_is_timed_once_for_all_lines_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.speed.throughput.cores", lambda: 1)
    setting = Setting(tmp_path, repeats=1, turn=0.0, step_seconds={"cifar_net": 0.5})
    assert loop_seconds(setting, "cifar_net") == 0.5
    measured = loop_seconds(setting, "mnist_net")
    assert 0 < measured < 10
    assert setting.step_seconds["mnist_net"] == measured


def test_the_plain_loop_counts_both_kinds_of_steps() -> None:
    assert work_of(PlainTurns("mnist_net", "conv1", (1, 28, 28), steps=3), 2) == [6, 6]


def test_operations_are_those_of_the_shapes() -> None:
    # 8 kernels of 5x5 on 24x24 places, forward and once backward, a multiplication and an addition each.
    once = 2 * 8 * 25 * 24 * 24
    counted = operations("mnist_net", "pool1", (1, 28, 28))
    assert (counted.image_step, counted.model_step) == (2 * once, 2 * once)
    # Two layers: a step on the weights needs the gradient of what lies between them, none of the image.
    first, second = 2 * 64 * 3 * 9 * 32 * 32, 2 * 64 * 64 * 9 * 32 * 32
    counted = operations("cifar_net", "pool1", (3, 32, 32))
    assert counted.image_step == 2 * (first + second)
    assert counted.model_step == 2 * (first + second) + second


def test_convolutions_alone_are_all_that_a_step_multiplies() -> None:
    layers = Convolutions("cifar_net", "pool1", (3, 16, 16), lanes=1).layers()
    counted = operations("cifar_net", "pool1", (3, 16, 16))
    for wants_image, expected in ((True, counted.image_step), (False, counted.model_step)):
        with FlopCounterMode(display=False) as counter:
            step(layers, 1, wants_image)
        assert counter.get_total_flops() == expected


def test_a_precision_that_an_attack_does_not_have_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.speed.throughput.ATTACK", "known_client")
    (line,) = cifar(Setting(tmp_path), ("cifar-bfloat16",))
    assert line.met is None
    assert line.facts == ("Not in this version.",)


def test_one_more_strength_adds_its_cells_to_the_block() -> None:
    before, after = (plan(with_strengths(each)) for each in (STRENGTHS, (*STRENGTHS, *MORE)))
    keys = {cell.key() for cell in before.cells}
    assert keys < {cell.key() for cell in after.cells}
    assert len(after.cells) * len(STRENGTHS) == len(before.cells) * (len(STRENGTHS) + len(MORE))
    (block,) = with_strengths(STRENGTHS).blocks
    assert block.name == BLOCK


def test_what_is_added_is_held_against_its_share_of_the_cells() -> None:
    before, after = Turn(80.0, 1.0, {"cells": 8}), Turn(110.0, 1.0, {"cells": 12})
    assert of_share(before, after) == pytest.approx((30 / 110) / (4 / 12))


def test_a_suite_is_run_whole_and_its_time_divided(tmp_path: Path) -> None:
    made = plan(
        read_suite(SMALL.replace("[0, 1]", "[0]").replace("[pool1, pool2]", "[pool2]"), tmp_path / "small.yaml")
    )
    shares = run_whole(made, tmp_path)
    assert 0 < shares.scored < 1
    assert 0 < shares.observed < 1
    assert shares.scored + shares.observed < 1
    assert (tmp_path / "small" / "leaderboard.md").is_file()


def test_loading_is_timed_in_a_process_of_its_own() -> None:
    assert result_of("loading", Loading("mnist-5k", None)) > 0


def test_without_its_files_loading_is_not_measured(tmp_path: Path) -> None:
    (line,) = loading(Setting(tmp_path, data_root=tmp_path))
    assert line.met is None
    assert "--data-root" in line.facts[0]
