import pytest
import torch
from torch import nn

from attacks.base import Budget
from attacks.known_client import KnownClient
from benchmark.errors import NotGranted
from benchmark.view import Knowledge
from tests.defended_views import defended, defense
from tests.server_views import images, view

WHITE_BOX = KnownClient().knowledge()
AMPLE = Budget().memory


def run(attack, *views, memory=AMPLE, progress=lambda fraction: None):
    return attack.run(list(views), Budget(memory), progress)


def white(**changes):
    return view(granted=WHITE_BOX, **changes)


def test_with_the_weights_of_a_shallow_head_the_digits_come_back():
    (finding,) = run(KnownClient(steps=400, lr=3e-2), white(n=4))
    assert finding.reconstructions.shape == (4, 4, 1, 28, 28)
    for found, truth in zip(finding.reconstructions[-1], images(4), strict=True):
        assert torch.corrcoef(torch.stack([found.flatten(), truth.flatten()]))[0, 1] > 0.85


def test_a_view_alone_is_attacked_as_beside_others():
    attack = KnownClient(steps=20)
    together = run(attack, white(victim=0), white(victim=1))
    chunked = run(attack, white(victim=0), white(victim=1), memory=1)
    for victim in (0, 1):
        (alone,) = run(attack, white(victim=victim))
        for other in (together[victim], chunked[victim]):
            torch.testing.assert_close(alone.reconstructions, other.reconstructions, atol=1e-4, rtol=0)


def test_the_trace_and_checkpoints_cover_the_budget():
    told = []
    (finding,) = run(KnownClient(steps=100), white(), progress=told.append)
    assert finding.steps == 100
    assert finding.checkpoints == [25, 50, 75, 100]
    assert finding.trace["step"][0] == 0
    assert finding.trace["step"][-1] == 100
    assert len(finding.trace["step"]) == len(finding.trace["loss"])
    assert finding.trace["loss"][-1] < 0.1 * finding.trace["loss"][0]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_neither_the_view_nor_the_client_is_changed():
    seen = white()
    smashed, weights = seen.smashed.clone(), [value.clone() for value in seen.client_head.state_dict().values()]
    run(KnownClient(steps=5), seen)
    assert torch.equal(seen.smashed, smashed)
    assert all(
        torch.equal(now, before) for now, before in zip(seen.client_head.state_dict().values(), weights, strict=True)
    )
    assert all(parameter.grad is None for parameter in seen.client_head.parameters())


def test_every_tensor_is_made_on_the_device_of_the_view():
    seen = white()
    (expected,) = run(KnownClient(steps=5), seen)
    with torch.device("meta"):
        (finding,) = run(KnownClient(steps=5), seen)
    assert torch.equal(finding.reconstructions, expected.reconstructions)


def test_without_the_grant_the_view_refuses():
    with pytest.raises(NotGranted, match="client weights"):
        run(KnownClient(steps=5), view())


def test_it_is_a_reference_of_the_white_box():
    assert KnownClient.role == "reference"
    assert Knowledge.CLIENT_WEIGHTS in WHITE_BOX


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_who_knows_the_defense_too_sees_through_a_gain(stance):
    seen = defended(defense(lambda z, rng, phase: 1e-3 * z), n=4)
    (finding,) = run(KnownClient(steps=400, lr=3e-2, stance=stance), seen)
    for found, truth in zip(finding.reconstructions[-1], images(4), strict=True):
        assert torch.corrcoef(torch.stack([found.flatten(), truth.flatten()]))[0, 1] > 0.85


def test_who_knows_the_defense_too_is_granted_both():
    assert KnownClient(stance="aware").knowledge() == {*WHITE_BOX, Knowledge.DEFENSE}


def test_a_stand_in_of_the_defense_only_adds():
    plain, lying = (defense(lambda z, rng, phase: z.tanh(), model=model) for model in (None, nn.Threshold(1e9, 0.0)))
    attack = KnownClient(steps=20, checkpoints=1, stance="adaptive")
    (real,), (both,) = run(attack, defended(plain)), run(attack, defended(lying))
    assert torch.equal(both.reconstructions[-1], real.reconstructions[-1])
    assert both.checkpoints == [20, 20]
