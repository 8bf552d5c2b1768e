from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.base import Budget, Finding
from attacks.inverse_decoder import InverseDecoder
from benchmark.data import Dataset
from benchmark.errors import NotGranted, UserError
from benchmark.metrics.reconstruction import best_control, control_scores, score_images
from benchmark.models import mnist_net, network, split
from benchmark.parts import Part
from benchmark.scoring import CONVERGED_FALL
from benchmark.seeds import Rng
from benchmark.view import Knowledge, Secrets, ServerView

Query = Callable[[Tensor], Tensor]
QUICK = {"images": 400, "epochs": 2}


def seen_by(
    query: Query, targets: Tensor, auxiliary: Part, k: int = 1, granted: frozenset[Knowledge] | None = None
) -> ServerView:
    return ServerView(
        smashed=torch.stack([query(targets) for _ in range(k)]),
        phase="inference",
        topology="vanilla",
        image_shape=(targets.shape[1], targets.shape[2], targets.shape[3]),
        n_classes=10,
        cut="pool2",
        tail_name=None,
        body=nn.Identity(),
        body_outputs=None,
        cut_gradients=None,
        labels=None,
        _factory=mnist_net,
        _granted=InverseDecoder().knowledge() if granted is None else granted,
        _secrets=Secrets(auxiliary=auxiliary, query=query),
    )


def attack(view: ServerView, **parameters: float | str) -> Finding:
    return InverseDecoder.configured(parameters).run([view], Budget(), lambda done: None)[0]


def mended(finding: Finding) -> Tensor:
    assert finding.reconstructions is not None
    return finding.reconstructions[-1]


def shown(finding: Finding, truth: Tensor) -> float:
    return float(np.mean(score_images(mended(finding), truth)["ssim_aligned"]))


def noisy(query: Query, sigma: float) -> Query:
    rng = Rng("noise")

    def answer(x: Tensor) -> Tensor:
        z = query(x)
        return z + sigma * z.square().mean().sqrt() * rng.normal_like(z)

    return answer


@pytest.fixture(scope="module")
def targets(digits: Dataset) -> Tensor:
    return digits.test.images[::50]


@pytest.fixture(scope="module")
def pool2(digits: Dataset) -> Query:
    whole = network(mnist_net, digits.image_shape, 10, Rng("victim"))
    optimiser = torch.optim.Adam(whole.parameters(), lr=2e-3)
    for batch in torch.split(Rng("batches").permutation(len(digits.victim)), 64):
        optimiser.zero_grad()
        F.cross_entropy(whole(digits.victim.images[batch]), digits.victim.labels[batch]).backward()
        optimiser.step()
    return split(whole.requires_grad_(False), "pool2").head


def test_a_trained_client_is_decoded_two_poolings_deep(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    finding = attack(seen_by(pool2, targets, digits.auxiliary), epochs=4)
    assert shown(finding, targets) >= 0.75
    assert best_control(control_scores(targets, digits.auxiliary, Rng("controls")))[1] < 0.5


def test_a_client_that_hides_nothing_is_decoded(targets: Tensor, digits: Dataset) -> None:
    assert shown(attack(seen_by(nn.Identity(), targets, digits.auxiliary), epochs=2), targets) >= 0.9


def _signs(z: Tensor) -> Tensor:
    return z * (Rng("signs").uniform(z.shape[1:]) - 0.5).sign()


def _shuffled(z: Tensor) -> Tensor:
    return z.flatten(1)[:, Rng("order").permutation(z[0].numel())].view_as(z)


def _flat_rotation(z: Tensor) -> Tensor:
    rotation = torch.linalg.qr(Rng("rotation").normal((z[0].numel(), z[0].numel())))[0]
    return z.flatten(1) @ rotation


@pytest.mark.parametrize(
    "disguise",
    [lambda z: z * 1e-3, lambda z: z - 3, lambda z: 1e4 * z + 7, _signs, _shuffled, _flat_rotation],
    ids=["tiny", "offset", "huge", "signs", "order", "rotation"],
)
def test_a_fixed_disguise_hides_nothing(disguise: Query, targets: Tensor, digits: Dataset) -> None:
    finding = attack(seen_by(disguise, targets, digits.auxiliary), epochs=1)
    assert shown(finding, targets) >= 0.9


def test_more_units_than_are_kept_as_features_are_decoded_too(targets: Tensor, digits: Dataset) -> None:
    def wide(x: Tensor) -> Tensor:
        return torch.cat([x, -x, x.flip(-1)], dim=1)

    assert shown(attack(seen_by(wide, targets, digits.auxiliary), epochs=1), targets) >= 0.9


def test_fresh_answers_undo_noise_better_than_one(targets: Tensor, digits: Dataset) -> None:
    fresh, once = (
        attack(seen_by(noisy(nn.Identity(), 3.0), targets, digits.auxiliary), images=300, epochs=2, stance=stance)
        for stance in ("aware", "oblivious")
    )
    assert shown(fresh, targets) > shown(once, targets) + 0.03


def test_targets_seen_five_times_under_noise_show_more(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    five, one = (
        attack(seen_by(noisy(pool2, 1.0), targets, digits.auxiliary, k=k), draws=1, images=200, epochs=2)
        for k in (5, 1)
    )
    assert shown(five, targets) > shown(one, targets) + 0.05


def test_training_on_means_decodes_means_better(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    view = seen_by(noisy(pool2, 3.0), targets, digits.auxiliary, k=10)
    adaptive, aware = (attack(view, epochs=2, stance=stance) for stance in ("adaptive", "aware"))
    assert shown(adaptive, targets) > shown(aware, targets) + 0.02


def test_against_a_client_that_always_answers_the_same_all_stances_are_one(
    pool2: Query, targets: Tensor, digits: Dataset
) -> None:
    view = seen_by(pool2, targets, digits.auxiliary, k=3)
    first, *others = (mended(attack(view, stance=stance, **QUICK)) for stance in ("oblivious", "aware", "adaptive"))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("stance", ["oblivious", "aware", "adaptive"])
def test_no_stance_is_granted_the_defense(stance: str) -> None:
    knowledge = InverseDecoder.configured({"stance": stance}).knowledge()
    assert knowledge == {Knowledge.ARCHITECTURE, Knowledge.AUXILIARY, Knowledge.QUERY}


def test_a_client_is_asked_no_more_than_allowed(targets: Tensor, digits: Dataset) -> None:
    asked = 0

    def counting(x: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return Rng("draw", asked).normal_like(x)

    view = seen_by(counting, targets, digits.auxiliary, k=10)
    asked = 0
    attack(view, images=100, queries=60)
    assert asked <= 61 * 100


def test_a_client_that_sends_nothing_yields_the_mean_auxiliary_image(targets: Tensor, digits: Dataset) -> None:
    finding = attack(seen_by(torch.zeros_like, targets, digits.auxiliary), **QUICK)
    assert torch.isfinite(mended(finding)).all()
    assert shown(finding, targets) < 0.5


def test_only_the_last_epoch_is_decoded_in_the_training_phase(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    view = seen_by(pool2, targets, digits.auxiliary)
    older = torch.cat([-view.smashed, view.smashed])
    training = dataclasses.replace(view, phase="training", smashed=older)
    assert torch.equal(mended(attack(training, **QUICK)), mended(attack(view, **QUICK)))


def test_the_same_view_gives_the_same_images_bit_for_bit(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    first, again = (attack(seen_by(noisy(pool2, 0.5), targets, digits.auxiliary), **QUICK) for _ in range(2))
    assert first.reconstructions is not None
    assert again.reconstructions is not None
    assert torch.equal(first.reconstructions, again.reconstructions)
    assert first.trace == again.trace


def test_another_attack_seed_gives_other_images(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    view = seen_by(pool2, targets, digits.auxiliary)
    other = dataclasses.replace(view, _attack_seed=1)
    assert not torch.equal(mended(attack(view, **QUICK)), mended(attack(other, **QUICK)))


def test_a_view_is_decoded_the_same_beside_others(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    views = [seen_by(query, targets, digits.auxiliary) for query in (pool2, lambda x: pool2(x) * 2 - 1)]
    done: list[float] = []
    together = InverseDecoder.configured(QUICK).run(views, Budget(), done.append)
    assert torch.equal(mended(together[0]), mended(attack(views[0], **QUICK)))
    assert done == sorted(done)
    assert done[-1] == 1


def test_the_finding_says_when_it_was_taken(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    finding = attack(seen_by(pool2, targets, digits.auxiliary), images=100, epochs=3, batch_size=32)
    assert finding.reconstructions is not None
    assert finding.reconstructions.shape == (2, *targets.shape)
    assert (finding.steps, list(finding.checkpoints)) == (12, [0, 12])
    assert finding.trace["step"] == [4, 8, 12]
    assert len(finding.trace["training_loss"]) == 3


def test_the_convolutions_mend_what_the_linear_decoder_left(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    finding = attack(seen_by(pool2, targets, digits.auxiliary), epochs=3)
    assert finding.reconstructions is not None
    linear, convolved = (score_images(images, targets)["mse_raw"] for images in finding.reconstructions)
    assert np.mean(convolved) < 0.8 * np.mean(linear)


def test_the_global_stream_and_the_view_are_left_untouched(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    view = seen_by(pool2, targets, digits.auxiliary)
    seen, state = view.smashed.clone(), torch.random.get_rng_state()
    attack(view, **QUICK)
    assert torch.equal(view.smashed, seen)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_tensor_is_made_on_the_default_device(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    view = seen_by(pool2, targets, digits.auxiliary)
    with torch.device("meta"):
        finding = attack(view, **QUICK)
    assert mended(finding).device == view.device


@pytest.mark.parametrize("missing", [Knowledge.AUXILIARY, Knowledge.QUERY])
def test_it_needs_the_knowledge_that_it_declares(missing: Knowledge, targets: Tensor, digits: Dataset) -> None:
    view = seen_by(nn.Identity(), targets, digits.auxiliary, granted=InverseDecoder().knowledge() - {missing})
    with pytest.raises(NotGranted, match=missing.value):
        attack(view)


def test_colour_images_of_odd_size_are_decoded() -> None:
    images = F.interpolate(Rng("colour").uniform((300, 3, 4, 4)), size=(13, 15), mode="bilinear")
    numbers = torch.arange(280, device="cpu")
    view = seen_by(lambda x: 2 * x.flatten(1) - 1, images[280:], Part(images[:280], numbers % 10, numbers))
    assert shown(attack(view, epochs=1), images[280:]) >= 0.9


def test_too_few_auxiliary_images_are_refused_with_a_remedy(targets: Tensor, digits: Dataset) -> None:
    few = digits.auxiliary.select(torch.arange(49, device="cpu"))
    with pytest.raises(UserError, match=r"auxiliary part has 49 images; give it at least 50"):
        attack(seen_by(nn.Identity(), targets, few))


def test_a_run_cut_short_is_not_taken_for_one_at_rest(pool2: Query, targets: Tensor, digits: Dataset) -> None:
    for client in (pool2, noisy(pool2, 1.0)):
        losses = attack(seen_by(client, targets, digits.auxiliary), epochs=3).trace["training_loss"]
        assert losses[-2] - losses[-1] > CONVERGED_FALL * losses[-2]


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.5, 2.0, 4.0])
def test_the_default_run_comes_to_rest_under_any_noise(
    sigma: float, pool2: Query, targets: Tensor, digits: Dataset
) -> None:
    losses = attack(seen_by(noisy(pool2, sigma), targets, digits.auxiliary)).trace["training_loss"]
    assert abs(losses[-2] - losses[-1]) < CONVERGED_FALL * losses[-2]


@pytest.mark.parametrize("key", ["images", "draws", "queries", "epochs", "batch_size", "learning_rate", "width"])
def test_parameters_out_of_range_are_refused_by_name(key: str) -> None:
    with pytest.raises(UserError, match=f"inverse_decoder: parameter {key}=0"):
        InverseDecoder.configured({key: 0})
