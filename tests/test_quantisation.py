from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data import Dataset
from benchmark.errors import PluginError, UserError
from benchmark.models import Split
from benchmark.seeds import Rng
from defenses.quantisation import Quantisation
from tests.tiny_training import digits_split, started


def prepared(digits: Dataset, **parameters: object) -> Quantisation:
    """As it is when training starts."""
    defense = Quantisation.configured(parameters)
    started(digits, digits_split(), defense, n=256)
    return defense


def smashed(digits: Dataset, n: int = 256) -> torch.Tensor:
    return digits_split().head(digits.victim.images[:n]).detach()


def sent(defense: Quantisation, z: torch.Tensor, phase: str = "inference") -> torch.Tensor:
    return defense.protect_activations(z, Rng("unused"), phase)


@settings(deadline=None, max_examples=25)
@given(bits=st.integers(1, 10), low=st.floats(-5, 0), width=st.floats(0.01, 10), seed=st.integers(0, 99))
def test_only_the_levels_of_the_range_are_sent(bits: int, low: float, width: float, seed: int) -> None:
    z = low + width * (Rng("z", seed).uniform((4, 300)) * 1.4 - 0.2)
    levels = torch.linspace(low, low + width, 2**bits)
    distance = (sent(Quantisation(bits=bits, low=low, high=low + width), z)[..., None] - levels).abs().amin(dim=2)
    assert distance.max().item() <= 1e-5


@settings(deadline=None, max_examples=25)
@given(bits=st.integers(1, 16), seed=st.integers(0, 99))
def test_the_error_is_half_a_step_at_most(bits: int, seed: int) -> None:
    z = Rng("z", seed).uniform((4, 300)) * 2 - 1
    error = (sent(Quantisation(bits=bits, low=-1.0, high=1.0), z) - z).abs().max().item()
    assert error <= 1 / (2**bits - 1) + 1e-6


def test_what_lies_outside_the_range_is_sent_as_its_end() -> None:
    z = torch.tensor([[-7.0, 0.0, 7.0]])
    assert sent(Quantisation(bits=8, low=0.0, high=2.0), z).tolist() == [[0.0, 0.0, 2.0]]


def test_one_bit_sends_the_two_ends() -> None:
    z = torch.tensor([[0.1, 0.9, 1.1, 1.9]])
    assert sent(Quantisation(bits=1, low=0.0, high=2.0), z).tolist() == [[0.0, 0.0, 2.0, 2.0]]


def test_training_and_inference_send_the_same_values(digits: Dataset) -> None:
    defense, z = Quantisation(low=0.0, high=1.0), smashed(digits)
    assert torch.equal(sent(defense, z, "training"), sent(defense, z, "inference"))


def test_the_gradient_passes_straight_through_within_the_range() -> None:
    z = torch.tensor([[-1.0, 0.4, 0.6, 3.0]], requires_grad=True)
    sent(Quantisation(bits=1, low=0.0, high=1.0), z, "training").sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_calibration_starts_with_the_range_of_the_untrained_head(digits: Dataset) -> None:
    defense, z = prepared(digits), smashed(digits)
    assert defense.reached == pytest.approx({"low": z.min().item(), "high": z.max().item()})


def test_the_range_follows_the_head_while_training(digits: Dataset) -> None:
    defense, z = prepared(digits), smashed(digits)
    for _ in range(200):
        sent(defense, 10 * z - 1, "training")
    expected = {"low": 10 * z.min().item() - 1, "high": 10 * z.max().item() - 1}
    assert defense.reached == pytest.approx(expected, rel=1e-3)


def test_the_range_is_frozen_at_inference(digits: Dataset) -> None:
    defense, z = prepared(digits), smashed(digits)
    before = defense.state["range"].clone()
    sent(defense, 10 * z)
    assert torch.equal(defense.state["range"], before)


def test_a_range_that_is_given_does_not_follow_the_head(digits: Dataset) -> None:
    defense, z = prepared(digits, low=0.0, high=1.0), smashed(digits)
    sent(defense, 10 * z, "training")
    assert sent(defense, z + 100).unique().tolist() == [1.0]
    assert not defense.state


def test_an_attack_that_replays_the_training_hook_moves_nothing(digits: Dataset) -> None:
    trained, restored = prepared(digits), Quantisation()
    restored.state.update(trained.state)
    sent(restored, 100 * smashed(digits), "training")
    assert torch.equal(restored.state["range"], trained.state["range"])


def test_the_saved_state_makes_an_equal_defense(digits: Dataset) -> None:
    trained, z = prepared(digits), smashed(digits)
    sent(trained, 5 * z, "training")
    restored = Quantisation()
    restored.state.update(trained.state)
    assert torch.equal(sent(trained, z), sent(restored, z))


def test_measuring_the_untrained_head_leaves_it_as_it_was(digits: Dataset) -> None:
    head = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 5), torch.nn.BatchNorm2d(2), torch.nn.Dropout())
    before = {name: value.clone() for name, value in head.state_dict().items()}
    Quantisation().prepare(Split(head, torch.nn.Flatten(), None, "dropout"), digits.victim, Rng("p"))
    assert head.training
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("value", [0.0, 5.0, -1e6])
def test_a_head_whose_units_are_all_equal_is_sent_in_finite_numbers(digits: Dataset, value: float) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, value)

    defense = Quantisation()
    defense.prepare(Split(Constant(), torch.nn.Flatten(), None, "constant"), digits.victim, Rng("p"))
    assert sent(defense, torch.full((2, 3), value)).flatten().tolist() == pytest.approx([value] * 6)


@pytest.mark.parametrize("parameters", [{}, {"low": 0.0, "high": 1.0}])
def test_nothing_is_made_on_the_default_device(digits: Dataset, parameters: dict[str, object]) -> None:
    with torch.device("meta"):
        assert sent(prepared(digits, **parameters), smashed(digits), "training").device.type == "cpu"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bits": 0}, "parameter bits=0"),
        ({"low": 1.0}, r"high=None stands beside low=1\.0; give both ends"),
        ({"high": 1.0}, r"high=1\.0 stands beside low=None; give both ends"),
        ({"low": 1.0, "high": 1.0}, r"high=1\.0 is not above low=1\.0"),
    ],
)
def test_a_range_that_is_none_is_refused_with_the_remedy(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Quantisation.configured(parameters)


@pytest.mark.parametrize(("parameters", "couples"), [({}, True), ({"low": 0.0, "high": 1.0}, False)])
def test_a_range_that_follows_other_samples_couples_them(parameters: dict[str, object], couples: bool) -> None:
    assert Quantisation.configured(parameters).couples_samples is couples


def test_without_a_calibrated_range_the_contract_is_broken() -> None:
    with pytest.raises(PluginError, match=r"quantisation.*call prepare first"):
        sent(Quantisation(), torch.ones(2, 3))
