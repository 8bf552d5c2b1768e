from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.gradient_similarity import GradientSimilarity
from benchmark.data import Dataset
from benchmark.errors import NotGranted, UserError
from benchmark.metrics.labels import Space, accuracy_without_gradient
from benchmark.view import Knowledge, ServerView
from defenses.isotropic_gradient_noise import IsotropicGradientNoise
from defenses.label_randomised_response import LabelRandomisedResponse
from defenses.max_norm import MaxNorm
from tests.observed_training import Observed, observe, only, run


@pytest.fixture(scope="module")
def undefended(digits: Dataset) -> Observed:
    return observe(digits)


@pytest.fixture(scope="module")
def flipped(digits: Dataset) -> Observed:
    return observe(digits, defenses=[LabelRandomisedResponse(epsilon=2)])


def with_known(view: ServerView, **changes: object) -> ServerView:
    known = replace(view.known_labels, **changes)  # type: ignore[arg-type]
    return only(view, _secrets=replace(view._secrets, known_labels=known))


@pytest.mark.parametrize("epoch", [None, 0, 1, -1])
def test_one_known_label_a_class_gives_every_label_behind_a_one_layer_tail(
    undefended: Observed, epoch: int | None
) -> None:
    assert undefended.accuracy_of(GradientSimilarity(epoch=epoch)) >= 0.95


def test_a_two_layer_tail_is_no_defense(digits: Dataset) -> None:
    assert observe(digits, tail="fc2").accuracy_of(GradientSimilarity()) >= 0.9


def test_the_same_labels_without_gradients_score_lower(undefended: Observed) -> None:
    view, known = undefended.view(GradientSimilarity()), undefended.known()
    assert view.body_outputs is not None
    assert known.body_outputs is not None
    spaces = [Space(view.smashed, known.smashed), Space(view.body_outputs, known.body_outputs)]

    without = accuracy_without_gradient(undefended.truth, 10, known.labels, spaces)

    assert without <= undefended.accuracy_of(GradientSimilarity()) - 0.1


def test_the_body_output_alone_does_as_the_control_does(undefended: Observed) -> None:
    attack = GradientSimilarity(reads="body_output")
    blind = only(undefended.view(attack), cut_gradients=None)

    labels = run(attack, [blind])[0].labels

    assert labels is not None
    assert 0.3 < (labels == undefended.truth).double().mean() < 0.9


def test_the_scale_of_a_gradient_does_not_matter(undefended: Observed) -> None:
    view = undefended.view(GradientSimilarity())
    rows = view.cut_gradients
    assert rows is not None
    # Squares of such numbers are below what float32 holds.
    scales = torch.logspace(0, -30, rows.shape[1])[:, None]

    plain, scaled = run(GradientSimilarity(), [view, only(view, cut_gradients=rows * scales)])

    assert torch.equal(plain.labels, scaled.labels)


@pytest.mark.parametrize("reads", ["cut_gradient", "both"])
def test_a_target_without_any_gradient_is_matched_by_the_body_output(undefended: Observed, reads: str) -> None:
    attack = GradientSimilarity.configured({"reads": reads})
    view = undefended.view(attack)
    silent = only(view, cut_gradients=torch.zeros_like(view.cut_gradients))
    by_output = GradientSimilarity(reads="body_output")

    assert torch.equal(run(attack, [silent])[0].labels, run(by_output, [view])[0].labels)


def test_known_samples_without_any_gradient_leave_no_nan(undefended: Observed) -> None:
    view = undefended.view(GradientSimilarity())
    silent = with_known(view, cut_gradients=torch.zeros_like(view.known_labels.cut_gradients))

    labels = run(GradientSimilarity(), [silent])[0].labels

    assert labels.min() >= 0
    assert labels.max() <= 9


def test_all_epochs_and_body_outputs_see_through_noise_that_hides_the_last_epoch(digits: Dataset) -> None:
    noisy = observe(digits, defenses=[IsotropicGradientNoise(c=2)])

    last, all_epochs, both = (
        noisy.accuracy_of(attack)
        for attack in (GradientSimilarity(epoch=-1), GradientSimilarity(), GradientSimilarity(reads="both"))
    )

    assert last < 0.7
    assert all_epochs > last + 0.1
    assert both > all_epochs


def test_regrouping_sees_through_noise_that_hides_the_nearest_known_sample(digits: Dataset) -> None:
    noisy = observe(digits, defenses=[IsotropicGradientNoise(c=4)])

    once, regrouped = (noisy.accuracy_of(GradientSimilarity(reads="both", rounds=rounds)) for rounds in (0, 20))

    assert once < 0.85
    assert regrouped > once + 0.05


@pytest.mark.parametrize("sign", ["kept", "ignored"])
def test_regrouping_keeps_what_is_right_already(undefended: Observed, sign: str) -> None:
    attack = GradientSimilarity.configured({"sign": sign, "rounds": 20})

    assert undefended.accuracy_of(attack) >= 0.95


def test_ignoring_the_sign_undoes_max_norm(digits: Dataset) -> None:
    masked = observe(digits, defenses=[MaxNorm()])

    assert masked.accuracy_of(GradientSimilarity()) < 0.8
    assert masked.accuracy_of(GradientSimilarity(sign="ignored")) > 0.9


def test_views_are_attacked_one_by_one(undefended: Observed) -> None:
    view = undefended.view(GradientSimilarity())
    flipped = with_known(view, labels=9 - view.known_labels.labels)

    first, second = run(GradientSimilarity(), [view, flipped])

    assert torch.equal(second.labels, 9 - first.labels)


def test_views_stay_as_they_were(undefended: Observed) -> None:
    view = undefended.view(GradientSimilarity())
    before = view.cut_gradients.clone(), view.body_outputs.clone()

    run(GradientSimilarity(reads="both", sign="ignored"), [view])

    assert torch.equal(view.cut_gradients, before[0])
    assert torch.equal(view.body_outputs, before[1])


def test_known_labels_must_be_declared(undefended: Observed) -> None:
    view = undefended.view(GradientSimilarity(), granted=frozenset({Knowledge.ARCHITECTURE}))

    with pytest.raises(NotGranted, match="KNOWN_LABELS"):
        run(GradientSimilarity(), [view])


def test_an_epoch_beyond_training_is_refused_with_those_that_exist(undefended: Observed) -> None:
    attack = GradientSimilarity(epoch=3)

    with pytest.raises(UserError, match=r"epoch=3 is outside the 3 epochs .* choose from -3 to 2"):
        run(attack, [undefended.view(attack)])


def test_a_view_without_gradients_is_refused(undefended: Observed) -> None:
    view = only(undefended.view(GradientSimilarity()), cut_gradients=None)

    with pytest.raises(NotGranted, match="u-shaped training"):
        run(GradientSimilarity(), [view])


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_without_a_defense_knowing_it_gives_every_label(undefended: Observed, stance: str) -> None:
    assert undefended.accuracy_of(GradientSimilarity.configured({"stance": stance})) >= 0.98


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_it_finds_out_that_max_norm_turns_gradients_round(digits: Dataset, stance: str) -> None:
    masked = observe(digits, defenses=[MaxNorm()])

    assert masked.accuracy_of(GradientSimilarity.configured({"stance": stance})) > 0.9


def test_weighing_epochs_and_smashed_data_sees_through_more_noise_than_any_told_variant(digits: Dataset) -> None:
    noisy = observe(digits, defenses=[IsotropicGradientNoise(c=8)])

    told = [
        noisy.accuracy_of(GradientSimilarity.configured(variant))
        for variant in ({}, {"reads": "both", "rounds": 20}, {"sign": "ignored", "rounds": 20})
    ]

    assert noisy.accuracy_of(GradientSimilarity(stance="adaptive")) > max(told) + 0.1


def test_late_epochs_that_repeat_each_other_are_worth_no_less_than_one(digits: Dataset) -> None:
    learned = observe(digits, records=200, epochs=60)

    one, five, ten = (
        replace(learned, seen=learned.seen.latest(views), sizes=learned.sizes[-views:]).accuracy_of(
            GradientSimilarity(stance="adaptive")
        )
        for views in (1, 5, 10)
    )

    assert one <= five
    assert one <= ten


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_it_undoes_flips_that_known_samples_suffer_too(flipped: Observed, stance: str) -> None:
    assert flipped.accuracy_of(GradientSimilarity()) < 0.3
    assert flipped.accuracy_of(GradientSimilarity.configured({"stance": stance})) > 0.5


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_flips_are_undone_on_the_views_device_and_alike_every_time(flipped: Observed, stance: str) -> None:
    attack = GradientSimilarity.configured({"stance": stance})

    first = run(attack, [flipped.view(attack)])[0].labels
    with torch.device("meta"):
        again = run(attack, [flipped.view(attack)])[0].labels

    assert again.device.type == "cpu"
    assert torch.equal(first, again)


def test_knowing_the_defense_has_to_be_granted(undefended: Observed) -> None:
    view = undefended.view(GradientSimilarity(stance="aware"), granted=GradientSimilarity().knowledge())

    with pytest.raises(NotGranted, match="DEFENSE"):
        run(GradientSimilarity(stance="aware"), [view])


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_what_it_finds_out_itself_cannot_be_told(stance: str) -> None:
    with pytest.raises(UserError, match=f"the {stance} form finds sign, rounds out itself"):
        GradientSimilarity.configured({"stance": stance, "sign": "ignored", "rounds": 3})


@pytest.mark.parametrize("stance", ["aware", "adaptive"])
def test_gradients_that_are_all_zero_leave_what_the_server_knows_without(undefended: Observed, stance: str) -> None:
    attack = GradientSimilarity.configured({"stance": stance})
    view = undefended.view(attack)
    silent = with_known(view, cut_gradients=torch.zeros_like(view.known_labels.cut_gradients))
    silent = only(silent, cut_gradients=torch.zeros_like(view.cut_gradients))

    labels = run(attack, [silent])[0].labels

    assert (labels == undefended.truth).double().mean() > 0.3


def test_it_asks_for_k_labels_a_class() -> None:
    assert GradientSimilarity(k=3).known_labels_per_class() == 3


def test_tensors_are_made_on_the_views_device(undefended: Observed) -> None:
    attack = GradientSimilarity(reads="both")
    view = undefended.view(attack)

    with torch.device("meta"):
        labels = run(attack, [view])[0].labels

    assert labels.device.type == "cpu"
