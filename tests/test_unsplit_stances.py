import pytest
import torch
from torch import nn

from attacks.unsplit import UnSplit
from benchmark.seeds import Rng
from benchmark.view import Knowledge
from defenses.gaussian_noise import GaussianNoise
from defenses.none import NoDefense
from tests.defended_views import defended, defense, key
from tests.server_views import images
from tests.test_unsplit import CLONES, SHORT, assert_equal_findings, correlation, run

JOINT = {
    "clone": "joint", "restarts": 2, "rounds": 8, "input_steps": 20, "model_steps": 20,
    "input_lr": 0.02, "model_lr": 0.01, "jitter": 0.05, "select": "consensus",
}  # fmt: skip


HIDE_NOTHING = {
    "gain": defense(lambda z, rng, phase: 1e-3 * z),
    "constant": defense(lambda z, rng, phase: z - 3),
    "reordered": defense(lambda z, rng, phase: z[:, Rng("key").permutation(8)]),
    "signs": defense(lambda z, rng, phase: z * key(z.shape[1:])),
    "frozen noise": defense(lambda z, rng, phase: z + Rng("frozen").normal(z.shape[1:])),
    "16 bits": defense(lambda z, rng, phase: ((z.detach() + 8) * 4096).round() / 4096),
    "no gradient": defense(lambda z, rng, phase: (z.detach() * -4096).round() / 64),
    "negative": defense(inputs=lambda x, rng, phase: 1 - x),
    "gains of units": defense(lambda z, rng, phase: z * 10 ** (4 * Rng("gains").uniform(z.shape[1:]) - 2)),
}


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
@pytest.mark.parametrize("clone", CLONES)
def test_every_form_gives_images_of_every_mode(stance, clone):
    attack = UnSplit(stance=stance, clone=clone, **SHORT)
    (finding,) = run(attack, defended(GaussianNoise(sigma=0.1), n=2))
    assert finding.reconstructions.shape[1:] == (2, 1, 28, 28)
    assert finding.reconstructions.isfinite().all()
    assert len(finding.checkpoints) == len(finding.reconstructions)
    assert finding.checkpoints[-2:] == [8, 16]


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
@pytest.mark.parametrize("clone", CLONES)
def test_a_view_alone_is_attacked_as_beside_others_and_in_any_memory(stance, clone):
    attack = UnSplit(stance=stance, clone=clone, jitter=0.01, **SHORT)
    views = [defended(GaussianNoise(sigma=0.2 * (1 + at)), n=2, victim=at) for at in range(2)]
    together, tight = run(attack, *views), run(attack, *views, memory=1)
    for at, seen in enumerate(views):
        (alone,) = run(attack, seen)
        assert_equal_findings(alone, together[at])
        assert_equal_findings(alone, tight[at])


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_every_tensor_is_made_on_the_device_of_the_view(stance):
    attack = UnSplit(stance=stance, clone="joint", **SHORT)

    def hidden(z, rng, phase):
        return (z.detach() * 8).round() + 0.1 * rng.normal_like(z)

    (expected,) = run(attack, defended(defense(hidden)))
    seen = defended(defense(hidden))
    with torch.device("meta"):
        (finding,) = run(attack, seen)
    assert_equal_findings(finding, expected, atol=0.0)


def test_who_knows_the_defense_is_granted_it():
    assert UnSplit(stance="aware").knowledge() == {Knowledge.ARCHITECTURE, Knowledge.DEFENSE}


@pytest.fixture(scope="module")
def found():
    """Mean correlation with the truth behind each defense that hides nothing, all attacked beside each other."""
    views = [defended(one, n=10, victim=2) for one in (NoDefense(), *HIDE_NOTHING.values())]
    findings = run(UnSplit(stance="adaptive", **JOINT), *views)
    scores = [
        sum(correlation(image, truth) for image, truth in zip(finding.reconstructions[-1], images(10), strict=True))
        for finding in findings
    ]
    return dict(zip(("none", *HIDE_NOTHING), [float(score) / 10 for score in scores], strict=True))


def test_without_a_defense_who_looks_for_one_finds_the_digits(found):
    assert found["none"] > 0.8


@pytest.mark.parametrize("name", HIDE_NOTHING)
def test_what_hides_nothing_leaks_as_no_defense_does(found, name):
    assert found[name] > found["none"] - 0.1


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_that_images_are_black_is_not_supposed_where_the_defense_brightens_black(stance):
    negative, noisy = (
        defended(defense(inputs=hook))
        for hook in (lambda x, rng, phase: 1 - x, lambda x, rng, phase: x + 0.3 * rng.normal_like(x))
    )
    attacks = [UnSplit(stance=stance, clone="joint", l2=l2, **SHORT) for l2 in (1.0, 0.0)]
    (of_black, of_noisy), (freely, noisy_freely) = (run(attack, negative, noisy) for attack in attacks)
    assert_equal_findings(of_black, freely)
    assert not torch.equal(of_noisy.reconstructions, noisy_freely.reconstructions)


def test_the_images_at_the_known_noise_level_come_first_under_their_step():
    attack = UnSplit(stance="adaptive", **{**JOINT, "rounds": 6, "restarts": 2, "checkpoints": 2})
    (finding,) = run(attack, defended(GaussianNoise(sigma=1.0), n=4))
    assert len(finding.reconstructions) == 3
    assert finding.checkpoints[0] < finding.checkpoints[-1] == 240
    assert finding.trace["loss"][0] > 1.0 > finding.trace["loss"][-1]
    (quiet,) = run(attack, defended(NoDefense(), n=4))
    assert quiet.checkpoints == [120, 240]


def test_a_stand_in_of_the_defense_only_adds():
    plain, lying = (defense(lambda z, rng, phase: z.tanh(), model=model) for model in (None, nn.Threshold(1e9, 0.0)))
    attack = UnSplit(stance="adaptive", clone="joint", **SHORT)
    (real,) = run(attack, defended(plain))
    both, beside = run(attack, defended(lying), defended(plain))
    assert_equal_findings(real, beside)
    torch.testing.assert_close(both.reconstructions[-2:], real.reconstructions, atol=1e-5, rtol=0)
    assert both.checkpoints == [8, 16, 8, 16]
    assert both.steps == 2 * real.steps
