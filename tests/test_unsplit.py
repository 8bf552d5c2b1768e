import pytest
import torch

from attacks.base import Budget
from attacks.inversion.alternate import alternate
from attacks.unsplit import UnSplit
from benchmark.errors import UserError
from benchmark.lanes import Lanes, bytes_per_lane
from benchmark.view import Knowledge
from tests.server_views import images, view

CLONES = ("per_target", "carried", "joint")
SHORT = {"rounds": 2, "input_steps": 4, "model_steps": 4, "restarts": 2, "checkpoints": 2}
AMPLE = Budget().memory


def run(attack, *views, memory=AMPLE, progress=lambda fraction: None):
    return attack.run(list(views), Budget(memory), progress)


def assert_equal_findings(one, other, atol=1e-5):
    torch.testing.assert_close(one.reconstructions, other.reconstructions, atol=atol, rtol=0)
    for mine, theirs in zip(one.clone.parameters(), other.clone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=0)
    assert one.trace["step"] == other.trace["step"]
    assert one.trace["loss"] == pytest.approx(other.trace["loss"], rel=1e-3)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs()


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("select", ["own_loss", "consensus"])
class TestEveryMode:
    def test_gives_images_a_clone_and_a_trace_for_each_view(self, clone, select):
        attack = UnSplit(clone=clone, select=select, **SHORT)
        findings = run(attack, view(victim=0), view(victim=1))
        assert len(findings) == 2
        for finding in findings:
            assert finding.reconstructions.shape == (2, 2, 1, 28, 28)
            assert finding.reconstructions.isfinite().all()
            assert finding.clone(images(2)).shape == (2, 8, 12, 12)
            assert finding.steps == 16
            assert finding.checkpoints == [8, 16]
            assert set(finding.trace) == {"step", "loss"}
            assert len(finding.trace["step"]) == len(finding.trace["loss"]) > 10
            assert finding.trace["loss"][-1] < finding.trace["loss"][0]

    def test_attacks_a_view_alone_as_beside_others(self, clone, select):
        attack = UnSplit(clone=clone, select=select, jitter=0.01, **SHORT)
        together = run(attack, view(victim=0), view(victim=1))
        for victim in (0, 1):
            (alone,) = run(attack, view(victim=victim))
            assert_equal_findings(alone, together[victim])

    def test_does_not_depend_on_the_memory_it_may_use(self, clone, select):
        attack = UnSplit(clone=clone, select=select, jitter=0.01, **SHORT)
        ample = run(attack, view(victim=0), view(victim=1))
        lane = bytes_per_lane(view().new_head(view().rng("any")), images(2 if clone == "joint" else 1))
        for memory in (1, 3 * lane):
            tight = run(attack, view(victim=0), view(victim=1), memory=memory)
            for one, other in zip(tight, ample, strict=True):
                assert_equal_findings(one, other)

    def test_leaves_the_view_as_it_was(self, clone, select):
        seen = view()
        before = seen.smashed.clone()
        run(UnSplit(clone=clone, select=select, **SHORT), seen)
        assert torch.equal(seen.smashed, before)
        assert not seen.smashed.requires_grad

    def test_makes_every_tensor_on_the_device_of_the_view(self, clone, select):
        attack = UnSplit(clone=clone, select=select, jitter=0.01, **SHORT)
        (expected,) = run(attack, view())
        seen = view()
        with torch.device("meta"):
            (finding,) = run(attack, seen)
        assert_equal_findings(finding, expected, atol=0.0)

    def test_reports_progress_that_rises_to_the_end(self, clone, select):
        told = []
        attack = UnSplit(clone=clone, select=select, **SHORT)
        run(attack, view(), view(victim=1), memory=1, progress=told.append)
        assert told == sorted(told)
        assert 0 < told[0] < told[-1] == 1.0


@pytest.mark.parametrize("clone", CLONES)
def test_the_restart_given_back_is_that_of_the_lowest_loss(clone):
    several = UnSplit(clone=clone, select="own_loss", **{**SHORT, "restarts": 3})
    (chosen,) = run(several, view())
    losses = chosen.trace["loss"]
    (first,) = run(several.model_copy(update={"restarts": 1}), view())
    assert losses[-1] <= first.trace["loss"][-1] * 1.001


def test_own_loss_takes_a_joint_restart_whole():
    attack = UnSplit(clone="joint", jitter=0.01, **{**SHORT, "restarts": 3})
    seen = view(n=3)
    (finding,) = run(attack, seen)
    outcomes = []
    for restart in range(3):
        start = 0.5 + 0.01 * torch.stack([seen.rng("start", restart, i).normal((1, 28, 28)) for i in range(3)])
        lanes = Lanes([seen.new_head(seen.rng("clone", restart))])
        outcomes.append(alternate(lanes, start.unsqueeze(0), seen.smashed, attack.schedule(), lambda fraction: None))
    best = min(outcomes, key=lambda outcome: outcome.losses[-1].mean())
    torch.testing.assert_close(finding.reconstructions[-1], best.images[-1, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("clone", CLONES)
def test_restarts_are_the_same_however_many_there_are(clone):
    # With one restart the consensus is that restart; it must be the first of two.
    one = UnSplit(clone=clone, **{**SHORT, "restarts": 1, "rounds": 1})
    seen = view()
    lanes = Lanes([seen.new_head(seen.rng("clone", 0))])
    start = torch.full((1, 1, 1, 28, 28), 0.5)
    outcome = alternate(lanes, start, seen.smashed[:, :1], one.schedule(), lambda fraction: None)
    (finding,) = run(one, seen)
    if clone != "joint":
        torch.testing.assert_close(finding.reconstructions[-1, 0], outcome.images[-1, 0, 0], atol=1e-5, rtol=0)
    assert finding.reconstructions.shape == (1, 2, 1, 28, 28)


def test_every_target_of_a_restart_starts_from_the_same_clone():
    same = view().smashed[:, :1].expand(1, 3, -1, -1, -1)
    (finding,) = run(UnSplit(clone="per_target", **SHORT), view(n=3, smashed=same))
    for other in (1, 2):
        torch.testing.assert_close(finding.reconstructions[:, 0], finding.reconstructions[:, other])


def test_a_carried_clone_brings_what_it_learnt_to_the_next_target():
    same = view().smashed[:, :1].expand(1, 2, -1, -1, -1)
    (finding,) = run(UnSplit(clone="carried", preset="paper", model_lr=5e-2, **SHORT), view(smashed=same))
    assert (finding.reconstructions[-1, 0] - finding.reconstructions[-1, 1]).abs().max() > 1e-3


def test_a_carried_clone_is_handed_from_target_to_target():
    attack = UnSplit(clone="carried", **{**SHORT, "restarts": 1})
    seen = view()
    head = seen.new_head(seen.rng("clone", 0))
    for target in range(2):
        lanes = Lanes([head])
        start = torch.full((1, 1, 1, 28, 28), 0.5)
        smashed = seen.smashed[:, target : target + 1]
        outcome = alternate(lanes, start, smashed, attack.schedule(), lambda fraction: None)
        head = lanes.head(0)
    (finding,) = run(attack, seen)
    torch.testing.assert_close(finding.reconstructions[-1, 1], outcome.images[-1, 0, 0])
    for mine, expected in zip(finding.clone.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_several_views_of_a_target_count_as_their_mean():
    smashed = view().smashed
    noisy = torch.stack([smashed[0] + 0.1, smashed[0] - 0.1])
    attack = UnSplit(clone="joint", jitter=0.01, **SHORT)
    (several,) = run(attack, view(smashed=noisy))
    (once,) = run(attack, view(smashed=noisy.mean(0, keepdim=True)))
    assert_equal_findings(several, once)


def test_another_attack_seed_draws_another_clone():
    attack = UnSplit(clone="joint", **SHORT)
    (one,), (other,) = run(attack, view()), run(attack, view(attack_seed=1))
    assert not torch.equal(one.reconstructions, other.reconstructions)


@pytest.mark.parametrize(
    ("parameters", "l2"),
    [({}, 1.0), ({"preset": "paper"}, 0.0), ({"l2": 0.3}, 0.3), ({"preset": "paper", "l2": 0.3}, 0.3)],
)
def test_the_preset_sets_the_weight_of_the_mean_squared_pixel_unless_it_is_given(parameters, l2):
    assert UnSplit(**parameters).schedule().l2 == l2


def test_the_defaults_are_the_published_ones():
    plan = UnSplit().schedule()
    assert (plan.rounds, plan.input_steps, plan.model_steps) == (1000, 100, 100)
    assert (plan.input_lr, plan.model_lr, plan.tv, plan.l2) == (1e-3, 1e-3, 0.1, 1.0)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"tv": -1}, {"clone": "each"}, {"input_lr": 0}, {"restarts": 0}])
def test_parameters_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"unsplit: parameter {next(iter(wrong))}="):
        UnSplit.configured(wrong)


def test_it_asks_for_nothing_but_the_architecture():
    assert UnSplit().knowledge() == {Knowledge.ARCHITECTURE}


def test_a_joint_clone_of_a_first_layer_makes_the_digits_appear():
    attack = UnSplit(
        clone="joint",
        restarts=6,
        rounds=6,
        input_steps=50,
        model_steps=50,
        input_lr=5e-3,
        model_lr=5e-3,
        select="consensus",
    )
    (finding,) = run(attack, view("pool1", n=10))
    found = [correlation(image, truth) for image, truth in zip(finding.reconstructions[-1], images(10), strict=True)]
    assert sum(found) / len(found) > 0.6


def test_the_clone_given_back_explains_what_was_sent_better_than_the_one_it_started_from():
    seen = view("pool1", n=4)
    (finding,) = run(
        UnSplit(
            clone="joint",
            **{**SHORT, "rounds": 100, "restarts": 1, "preset": "paper", "input_lr": 2e-2, "model_lr": 2e-2},
        ),
        seen,
    )
    with torch.no_grad():
        losses = [
            (head(finding.reconstructions[-1]) - seen.smashed[0]).square().mean()
            for head in (finding.clone, seen.new_head(seen.rng("clone", 0)))
        ]
    assert losses[0] < 0.75 * losses[1]


def test_in_bfloat16_an_attack_ends_where_it_ends_in_float32():
    plan = {"clone": "joint", "rounds": 10, "input_steps": 20, "model_steps": 20, "input_lr": 0.01, "model_lr": 0.01}
    findings = [
        run(UnSplit(precision=precision, jitter=0.01, **plan), view("conv1", n=4))[0]
        for precision in ("float32", "bfloat16")
    ]
    exact, rounded = (
        torch.stack(
            [correlation(image, truth) for image, truth in zip(found.reconstructions[-1], images(4), strict=True)]
        )
        for found in findings
    )
    assert exact.mean() > 0.5
    assert (exact - rounded).abs().max() < 0.02
    assert findings[1].trace["loss"][-1] == pytest.approx(findings[0].trace["loss"][-1], rel=0.05)


def test_precision_is_part_of_what_an_attack_is_identified_by():
    assert UnSplit().model_dump() != UnSplit(precision="bfloat16").model_dump()
