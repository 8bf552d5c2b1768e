from dataclasses import replace

import pytest
import torch

from attacks.inversion.alternate import alternate
from attacks.inversion.leaving import at_rest, behind
from attacks.inversion.schedule import Schedule
from attacks.unsplit import UnSplit
from benchmark.lanes import Lanes
from defenses.gaussian_noise import GaussianNoise
from tests.defended_views import defended
from tests.server_views import clone, head, images, view
from tests.test_unsplit import run

JOINT = {
    "clone": "joint", "restarts": 4, "rounds": 10, "input_steps": 5, "model_steps": 5, "input_lr": 0.02,
    "model_lr": 0.01, "jitter": 0.05, "checkpoints": 2,
}  # fmt: skip
# One convolution whose weights are known is explained long before this many rounds are over.
EASY = Schedule(200, 2, 0, 0.05, 0.05, 0.0, 0.0, 2)


def curve(*losses):
    return torch.tensor(losses).unsqueeze(1)


def falling(points):
    return curve(*[0.9**point for point in range(points)])


def test_a_loss_that_falls_is_not_at_rest():
    assert not at_rest(falling(50))


def test_a_loss_within_a_hundredth_for_a_tenth_of_the_budget_is_at_rest():
    assert at_rest(torch.cat([falling(10), curve(*[0.3, 0.299, 0.3, 0.298, 0.3, 0.299])]))


def test_a_loss_that_comes_back_to_where_it_was_is_not_at_rest():
    assert not at_rest(torch.cat([falling(10), curve(*[0.3, 0.4, 0.5, 0.4, 0.3, 0.3])]))


def test_before_a_fifth_of_the_budget_a_plateau_is_taken_for_a_start():
    assert not at_rest(curve(*[1.0] * 9))
    assert at_rest(curve(*[1.0] * 10))


def test_a_loss_that_is_no_number_is_never_at_rest():
    assert not at_rest(curve(*[torch.nan] * 20))


def test_the_half_of_each_group_with_the_higher_losses_is_behind():
    assert behind(torch.tensor([3.0, 1.0, 2.0, 4.0, 7.0, 5.0, 6.0, 8.0]), 4).tolist() == [
        True, False, False, True, True, False, False, True,
    ]  # fmt: skip


def test_of_an_odd_number_the_smaller_part_is_behind():
    assert behind(torch.tensor([2.0, 3.0, 1.0]), 3).tolist() == [False, True, False]


def test_a_loss_that_is_no_number_is_behind_all_others():
    assert behind(torch.tensor([torch.nan, 9.0]), 2).tolist() == [True, False]


def inverted(schedule, lanes=3):
    x = images(2)
    targets = torch.stack([head("conv1", lane)(x).detach() for lane in range(lanes)])
    start = torch.full((lanes, 2, 1, 28, 28), 0.5)
    clones = Lanes([clone("conv1", lane) for lane in range(lanes)])
    return alternate(clones, start, targets, schedule, lambda fraction: None), clones


def test_lanes_that_stay_end_as_if_nobody_had_left():
    plan = Schedule(8, 5, 5, 0.01, 0.01, 0.1, 0.0, 2)
    whole, clones = inverted(plan)
    part, of_part = inverted(replace(plan, halved_after=3, rivals=3))
    stayed = ~part.behind[:, 0]
    assert stayed.sum() == 2
    torch.testing.assert_close(part.images[:, stayed], whole.images[:, stayed], atol=1e-5, rtol=0)
    torch.testing.assert_close(part.trace[:, stayed], whole.trace[:, stayed], atol=1e-5, rtol=1e-4)
    for name, weights in clones.parameters.items():
        torch.testing.assert_close(of_part.parameters[name][stayed], weights[stayed], atol=1e-5, rtol=0)


def test_a_lane_that_left_stays_as_it_was_then():
    plan = Schedule(8, 5, 5, 0.01, 0.01, 0.1, 0.0, 8)
    whole, _ = inverted(plan)
    part, _ = inverted(replace(plan, halved_after=3, rivals=3))
    (left,) = part.behind[:, 0].nonzero().flatten()
    torch.testing.assert_close(part.images[2:, left], whole.images[2, left].expand(6, *whole.images.shape[2:]))
    assert part.spent[:, 0].tolist() == [30 if lane == left else 80 for lane in range(3)]


@pytest.fixture(scope="module")
def settled():
    x = images(2)
    known = [head("conv1", lane) for lane in range(3)]
    targets = torch.stack([one(x).detach() for one in known])
    start = torch.full((3, 2, 1, 28, 28), 0.5)
    start[0] = x
    plan = replace(EASY, tv=1.0, ends_at_rest=True)
    return plan, alternate(Lanes(known), start, targets, plan, lambda fraction: None)


def test_a_run_ends_when_all_its_lanes_are_at_rest(settled):
    plan, outcome = settled
    assert 0.2 * plan.steps <= outcome.spent.min()
    assert outcome.spent.max() < plan.steps
    assert outcome.steps[-1] == outcome.spent.max()


def test_checkpoints_that_nobody_reached_are_as_all_ended(settled):
    plan, outcome = settled
    assert len(outcome.images) == 2
    torch.testing.assert_close(outcome.losses[-1], outcome.trace[-1])
    assert outcome.kept(plan)[1][-1] == outcome.spent.max()


def test_nobody_is_at_rest_where_that_is_not_asked(settled):
    plan, _ = settled
    outcome, _ = inverted(replace(plan, rounds=12, ends_at_rest=False))
    assert (outcome.spent == 24).all()


@pytest.mark.parametrize("select", ["own_loss", "consensus"])
@pytest.mark.parametrize("mode", ["joint", "per_target"])
def test_dropped_restarts_have_no_say_and_their_steps_are_saved(mode, select):
    attack = UnSplit(**(JOINT | {"clone": mode, "select": select, "halve": 0.5}))
    (finding,) = run(attack, view())
    assert finding.reconstructions.shape == (2, 2, 1, 28, 28)
    assert finding.reconstructions.isfinite().all()
    assert finding.steps == 100
    assert finding.saved_steps == 25


@pytest.mark.parametrize("mode", ["joint", "per_target"])
def test_halving_does_not_depend_on_the_memory_it_may_use(mode):
    attack = UnSplit(**(JOINT | {"clone": mode, "halve": 0.3}))
    ample, tight = run(attack, view(), view(victim=1)), run(attack, view(), view(victim=1), memory=1)
    for one, other in zip(ample, tight, strict=True):
        torch.testing.assert_close(one.reconstructions, other.reconstructions, atol=1e-4, rtol=0)


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_restarts_are_dropped_under_a_known_defense_too(stance):
    attack = UnSplit(stance=stance, **(JOINT | {"halve": 0.5}))
    first, second = run(attack, defended(GaussianNoise(sigma=0.1), n=2), defended(GaussianNoise(sigma=0.5), n=2))
    for finding in (first, second):
        assert finding.reconstructions.isfinite().all()
        assert finding.saved_steps == 25


@pytest.mark.parametrize(("changes", "why"), [({"restarts": 1}, "restarts=1"), ({"clone": "carried"}, "clone=carried")])
def test_halving_is_refused_where_nothing_can_be_dropped(changes, why):
    with pytest.raises(ValueError, match=f"halve=0.5 drops half of the restarts, but {why}"):
        UnSplit(**(JOINT | {"halve": 0.5} | changes))


def test_an_attack_that_does_all_its_rounds_has_saved_nothing():
    assert run(UnSplit(**JOINT), view())[0].saved_steps == 0
