from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data import Dataset
from benchmark.errors import PluginError, UserError
from benchmark.models import Split
from benchmark.seeds import Rng
from defenses.gaussian_noise import GaussianNoise
from tests.tiny_training import digits_split, started


def parts() -> Split:
    return digits_split("pool1")


def prepared(digits: Dataset, **parameters: object) -> GaussianNoise:
    """As it is when training starts."""
    defense = GaussianNoise.configured(parameters)
    started(digits, parts(), defense, n=256)
    return defense


def smashed(digits: Dataset, n: int = 64) -> torch.Tensor:
    return parts().head(digits.victim.images[:n]).detach()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**20), scale=st.floats(-1e3, 1e3), key=st.sampled_from(["sigma", "relative"]))
def test_noise_of_zero_strength_is_the_identity(seed: int, scale: float, key: str) -> None:
    defense = GaussianNoise.configured({key: 0.0})
    defense.state["mean_square"] = torch.tensor(4.0)
    z = scale * Rng("z", seed).normal((3, 2, 4, 4))
    assert torch.equal(defense.protect_activations(z, Rng("noise"), "training"), z)


def test_absolute_noise_has_the_standard_deviation_asked_for(digits: Dataset) -> None:
    z = smashed(digits)
    noise = prepared(digits, sigma=3.0).protect_activations(z, Rng("n"), "inference") - z
    assert noise.std().item() == pytest.approx(3.0, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.05)


def test_relative_noise_scales_with_the_rms_of_the_smashed_data(digits: Dataset) -> None:
    defense, z = prepared(digits, relative=2.0), smashed(digits, 256)
    noise = defense.protect_activations(z, Rng("n"), "inference") - z
    assert noise.std().item() == pytest.approx(2 * z.square().mean().sqrt().item(), rel=0.02)


def test_half_the_rms_is_the_default() -> None:
    assert GaussianNoise().parameters() == {"sigma": None, "relative": 0.5, "phases": "both"}


@settings(deadline=None, max_examples=25)
@given(scales=st.lists(st.floats(0.1, 1e3), min_size=1, max_size=5))
def test_the_rms_is_frozen_at_inference(digits: Dataset, scales: list[float]) -> None:
    defense = prepared(digits, relative=1.0)
    before = defense.state["mean_square"].clone()
    for scale in scales:
        defense.protect_activations(torch.full((2, 3), scale), Rng("n"), "inference")
    assert torch.equal(defense.state["mean_square"], before)


def test_the_rms_follows_the_head_while_training(digits: Dataset) -> None:
    defense, z = prepared(digits, relative=1.0), smashed(digits)
    for _ in range(200):
        defense.protect_activations(10 * z, Rng("n"), "training")
    reached = 10 * z.square().mean().sqrt().item()
    assert defense.reached["sigma"] == pytest.approx(reached, rel=1e-3)


def test_an_attack_that_replays_the_training_hook_moves_nothing(digits: Dataset) -> None:
    trained, restored = prepared(digits, relative=1.0), GaussianNoise(relative=1.0)
    restored.state.update(trained.state)
    restored.protect_activations(100 * smashed(digits), Rng("attack"), "training")
    assert torch.equal(restored.state["mean_square"], trained.state["mean_square"])


def test_no_gradient_flows_through_the_scale_of_the_noise(digits: Dataset) -> None:
    defense, z = prepared(digits, relative=1.0), smashed(digits).requires_grad_(True)
    defense.protect_activations(z, Rng("n"), "training").sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.ones_like(z))


def test_absolute_noise_reports_its_ratio_to_the_rms(digits: Dataset) -> None:
    defense, z = prepared(digits, sigma=2.0), smashed(digits, 256)
    assert defense.reached["noise_to_rms"] == pytest.approx(2 / z.square().mean().sqrt().item(), rel=1e-5)


def test_the_saved_state_makes_an_equal_defense(digits: Dataset) -> None:
    trained, z = prepared(digits, relative=1.0), smashed(digits)
    trained.protect_activations(5 * z, Rng("n"), "training")
    restored = GaussianNoise(relative=1.0)
    restored.state.update(trained.state)
    outputs = [d.protect_activations(z, Rng("same"), "inference") for d in (trained, restored)]
    assert torch.equal(*outputs)


def test_measuring_the_untrained_head_leaves_it_as_it_was(digits: Dataset) -> None:
    head = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 5), torch.nn.BatchNorm2d(2), torch.nn.Dropout())
    before = {name: value.clone() for name, value in head.state_dict().items()}
    GaussianNoise().prepare(Split(head, torch.nn.Flatten(), None, "dropout"), digits.victim, Rng("p"))
    assert head.training
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize(("phases", "noisy"), [("training", "training"), ("inference", "inference")])
def test_noise_is_added_in_the_phases_asked_for_alone(digits: Dataset, phases: str, noisy: str) -> None:
    defense, z = prepared(digits, phases=phases), smashed(digits)
    changed = [p for p in ("training", "inference") if not torch.equal(defense.protect_activations(z, Rng("n"), p), z)]
    assert changed == [noisy]


def test_every_query_gets_fresh_noise(digits: Dataset) -> None:
    defense, z, rng = prepared(digits), smashed(digits), Rng("n")
    first, second = (defense.protect_activations(z, rng, "inference") for _ in range(2))
    assert not torch.equal(first, second)


def test_nothing_is_made_on_the_default_device(digits: Dataset) -> None:
    with torch.device("meta"):
        z = smashed(digits)
        assert prepared(digits).protect_activations(z, Rng("n"), "training").device.type == "cpu"


def test_sigma_and_relative_together_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        UserError, match=r"gaussian_noise: parameter relative=0\.5 cannot stand beside sigma=1.*not both"
    ):
        GaussianNoise.configured({"sigma": 1.0, "relative": 0.5})


def test_no_noise_level_at_all_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="relative=None leaves no noise level; give sigma"):
        GaussianNoise.configured({"relative": None})


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_noise_level_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="gaussian_noise: parameter sigma="):
        GaussianNoise.configured({"sigma": value})


def test_an_absolute_level_is_written_without_the_default_it_replaces() -> None:
    assert GaussianNoise(sigma=2.0).spec() == "gaussian_noise:sigma=2.0"
    assert GaussianNoise.configured(GaussianNoise(sigma=2.0).parameters()) == GaussianNoise(sigma=2.0)


def test_relative_noise_without_a_measured_rms_is_a_broken_contract() -> None:
    with pytest.raises(PluginError, match=r"gaussian_noise.*call prepare first"):
        GaussianNoise().protect_activations(torch.ones(2, 3), Rng("n"), "inference")


def test_noise_without_clipping_claims_no_epsilon(digits: Dataset) -> None:
    assert list(prepared(digits, sigma=5.0).privacy()) == []


@pytest.mark.parametrize(
    ("parameters", "couples"),
    [({"relative": 1.0}, True), ({"relative": 1.0, "phases": "inference"}, False), ({"sigma": 1.0}, False)],
)
def test_noise_scaled_by_other_samples_couples_them(parameters: dict[str, object], couples: bool) -> None:
    assert GaussianNoise.configured(parameters).couples_samples is couples
