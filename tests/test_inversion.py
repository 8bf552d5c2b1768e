import pytest
import torch
from torch import nn

from attacks.inversion.alternate import alternate
from attacks.inversion.schedule import Schedule
from benchmark.errors import PluginError
from benchmark.lanes import Lanes
from benchmark.seeds import Rng
from tests.server_views import clone, head, images


def schedule(**changes):
    settings = {"rounds": 2, "input_steps": 3, "model_steps": 2, "input_lr": 1e-3, "model_lr": 1e-3}
    return Schedule(**{**settings, "tv": 0.1, "l2": 1.0, "checkpoints": 1, **changes})


def published_objective(model, x, z, tv, l2):
    """One image, [1, c, h, w], as in the published code: summed squares over the number of differences."""
    down, across = x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]
    variation = down.pow(2).sum() / down.numel() + across.pow(2).sum() / across.numel()
    return nn.functional.mse_loss(model(x), z) + tv * variation + l2 * x.pow(2).mean()


def written_out(model, x, z, plan):
    """The published loop for joint images, one `backward` a step."""
    x = x.clone().requires_grad_(True)
    image_adam = torch.optim.Adam([x], lr=plan.input_lr, amsgrad=True)
    model_adam = torch.optim.Adam(model.parameters(), lr=plan.model_lr, amsgrad=True)
    for _ in range(plan.rounds):
        for _ in range(plan.input_steps):
            image_adam.zero_grad()
            sum(
                published_objective(model, x[i : i + 1], z[i : i + 1], plan.tv, plan.l2) for i in range(len(x))
            ).backward()
            image_adam.step()
        for _ in range(plan.model_steps):
            model_adam.zero_grad()
            nn.functional.mse_loss(model(x), z).backward()
            model_adam.step()
    return x.detach()


@pytest.mark.parametrize("cut", ["conv1", "relu1", "pool1", "conv2", "pool2"])
@pytest.mark.parametrize("tv", [0.0, 0.1])
@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_a_lane_follows_the_published_loop_written_out(cut, tv, l2):
    plan = schedule(tv=tv, l2=l2)
    targets = head(cut)(images(3)).detach()
    start = 0.5 + 0.1 * Rng("start").normal((3, 1, 28, 28))
    model, lanes = clone(cut), Lanes([clone(cut)])
    outcome = alternate(lanes, start.unsqueeze(0), targets.unsqueeze(0), plan, lambda fraction: None)
    expected = written_out(model, start, targets, plan)
    # An Adam step is 1e-3 whatever the gradient: were a gradient off by a per cent, images would be off by more.
    torch.testing.assert_close(outcome.images[-1, 0], expected, atol=1e-5, rtol=0)


def test_colour_images_follow_the_published_loop_written_out():
    plan = schedule()
    x = Rng("colour").uniform((2, 3, 12, 10))
    victim, model = (nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2)) for _ in range(2))
    for part, name in ((victim, "victim"), (model, "model")):
        for parameter in part.parameters():
            parameter.data = 0.2 * Rng(name, tuple(parameter.shape)).normal(parameter.shape)
    targets, start = victim(x).detach(), Rng("start").uniform((2, 3, 12, 10))
    outcome = alternate(Lanes([model]), start.unsqueeze(0), targets.unsqueeze(0), plan, lambda fraction: None)
    torch.testing.assert_close(outcome.images[-1, 0], written_out(model, start, targets, plan), atol=1e-5, rtol=0)


def test_no_model_steps_leave_the_weights_as_they_are():
    lanes = Lanes([clone("pool1")])
    before = {name: value.detach().clone() for name, value in lanes.parameters.items()}
    targets = head("pool1")(images(1)).detach().unsqueeze(0)
    start = torch.full((1, 1, 1, 28, 28), 0.5)
    alternate(lanes, start, targets, schedule(model_steps=0), lambda fraction: None)
    assert all(torch.equal(lanes.parameters[name], value) for name, value in before.items())


def test_a_head_without_weights_is_inverted_like_any_other():
    pool = nn.Sequential(nn.AvgPool2d(2))
    x = images(1)
    outcome = alternate(
        Lanes([pool]),
        torch.full((1, *x.shape), 0.5),
        pool(x).unsqueeze(0),
        schedule(rounds=40, input_steps=10, input_lr=0.05, tv=0.0, l2=0.0),
        lambda fraction: None,
    )
    assert outcome.losses[-1].item() < 1e-4


def test_the_trace_starts_at_the_first_step_and_ends_with_the_last_loss():
    targets = head("pool1")(images(2)).detach().unsqueeze(0)
    start = torch.full((1, 2, 1, 28, 28), 0.5)
    plan = schedule(rounds=20)
    outcome = alternate(Lanes([clone("pool1")]), start, targets, plan, lambda fraction: None)
    first = (clone("pool1")(start[0]) - targets[0]).square().flatten(1).mean(1)
    assert outcome.steps[0] == 0
    assert outcome.steps[-1] == plan.steps == 100
    assert len(outcome.steps) == len(outcome.trace) == 51
    torch.testing.assert_close(outcome.trace[0, 0], first.detach())
    assert torch.equal(outcome.trace[-1], outcome.losses[-1])


def test_checkpoints_are_the_images_of_shorter_runs():
    targets = head("conv1")(images(2)).detach().unsqueeze(0)
    start = torch.full((1, 2, 1, 28, 28), 0.5)
    long = alternate(Lanes([clone("conv1")]), start, targets, schedule(rounds=4, checkpoints=2), lambda fraction: None)
    short = alternate(Lanes([clone("conv1")]), start, targets, schedule(rounds=2), lambda fraction: None)
    assert torch.equal(long.images[0], short.images[0])


@pytest.mark.parametrize(
    ("rounds", "checkpoints", "kept"),
    [(1000, 4, [250, 500, 750, 1000]), (3, 10, [1, 2, 3]), (7, 1, [7]), (10, 4, [2, 5, 8, 10])],
)
def test_checkpoints_are_equally_spaced_and_end_with_the_end(rounds, checkpoints, kept):
    assert schedule(rounds=rounds, checkpoints=checkpoints).kept_rounds() == kept


def test_smashed_data_of_another_shape_are_refused_in_one_sentence():
    start = torch.full((1, 1, 1, 28, 28), 0.5)
    with pytest.raises(PluginError, match=r"shape \(8, 12, 12\) a sample, the victim sent \(8, 24, 24\)"):
        alternate(Lanes([clone("pool1")]), start, torch.zeros(1, 1, 8, 24, 24), schedule(), lambda fraction: None)
