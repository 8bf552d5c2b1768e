from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark.data import Dataset
from benchmark.errors import UserError
from benchmark.victim import Victim, obtain_victim
from tests.specs import WATCH, victim_spec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("victims")


def weights(victim: Victim) -> dict[str, torch.Tensor]:
    return {name: value for part in victim.split.parts().values() for name, value in part.state_dict().items()}


def same(first: Victim, second: Victim) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_victim_learns_its_task(digits: Dataset, cache: Path) -> None:
    victim = obtain_victim(victim_spec(digits), digits, cache, CPU)
    guessed = victim.predict(digits.test.images, victim.protection.restarted("t")).argmax(1)
    assert float((guessed == digits.test.labels).float().mean()) > 0.7


def test_one_undefended_training_serves_every_cut_and_topology(digits: Dataset, cache: Path) -> None:
    shallow = obtain_victim(victim_spec(digits, cut="conv1"), digits, cache, CPU)
    deep = obtain_victim(victim_spec(digits, cut="fc1", topology="u_shaped", tail="fc3"), digits, cache, CPU)
    assert same(shallow, deep)


def test_a_cached_victim_equals_the_trained_one(digits: Dataset, tmp_path: Path) -> None:
    spec = victim_spec(digits, "gaussian_noise:relative=0.5")
    trained = obtain_victim(spec, digits, tmp_path, CPU)
    files = sorted(tmp_path.iterdir())
    loaded = obtain_victim(spec, digits, tmp_path, CPU)
    assert same(trained, loaded)
    assert sorted(tmp_path.iterdir()) == files


def test_what_a_defense_learned_comes_back_from_the_cache(digits: Dataset, tmp_path: Path) -> None:
    spec = victim_spec(digits, "gaussian_noise:relative=0.5")
    trained = obtain_victim(spec, digits, tmp_path, CPU)
    loaded = obtain_victim(spec, digits, tmp_path, CPU)
    x = digits.test.images[:4]
    first = trained.smash(x, trained.protection.restarted("q"))
    assert torch.equal(first, loaded.smash(x, loaded.protection.restarted("q")))


def test_a_broken_cache_file_is_trained_again(digits: Dataset, tmp_path: Path) -> None:
    spec = victim_spec(digits)
    trained = obtain_victim(spec, digits, tmp_path, CPU)
    file = next(tmp_path.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    assert same(trained, obtain_victim(spec, digits, tmp_path, CPU))


def test_a_defended_victim_starts_from_the_weights_of_the_undefended_one(digits: Dataset, cache: Path) -> None:
    plain = obtain_victim(victim_spec(digits, epochs=0), digits, cache, CPU)
    defended = obtain_victim(victim_spec(digits, "gaussian_noise:relative=0.5", epochs=0), digits, cache, CPU)
    assert same(plain, defended)


def test_zero_noise_trains_the_undefended_victim(digits: Dataset, cache: Path) -> None:
    plain = weights(obtain_victim(victim_spec(digits), digits, cache, CPU))
    defended = weights(obtain_victim(victim_spec(digits, "gaussian_noise:sigma=0"), digits, cache, CPU))
    for name, value in plain.items():
        torch.testing.assert_close(defended[name], value, atol=1e-4, rtol=0)


def test_seeds_give_different_victims(digits: Dataset, cache: Path) -> None:
    first, second = (obtain_victim(victim_spec(digits, seed=seed), digits, cache, CPU) for seed in (0, 1))
    assert not same(first, second)


def test_training_is_seen_sample_by_sample_in_every_epoch(digits: Dataset, cache: Path) -> None:
    spec = victim_spec(digits, topology="u_shaped", tail="fc3", epochs=2, watch=WATCH)
    seen = obtain_victim(spec, digits, cache, CPU).seen
    assert seen is not None
    assert seen.smashed.shape == (2, 30, 8, 12, 12)
    assert seen.cut_gradients is not None
    assert seen.cut_gradients.shape == (2, 30, 84)
    assert int(seen.is_known.sum()) == 10
    assert torch.equal(seen.batch_sizes.unique(), torch.tensor([64]))


def test_the_gradient_of_the_last_bias_is_that_of_the_whole_batch(digits: Dataset, cache: Path) -> None:
    spec = victim_spec(digits, topology="u_shaped", tail="fc3", epochs=2, watch=WATCH)
    seen = obtain_victim(spec, digits, cache, CPU).seen
    assert seen is not None
    bias = seen.weight_gradients["fc3.bias"]
    torch.testing.assert_close(bias.sum(-1), torch.zeros(2, 30), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("epochs", "batch_size"), [(0, 1), (0, 64), (1, 1)])
def test_a_frozen_pass_shows_one_step_whatever_the_victim_was_trained_with(
    digits: Dataset, cache: Path, epochs: int, batch_size: int
) -> None:
    watch = replace(WATCH, batch_size=batch_size)
    spec = victim_spec(digits, topology="u_shaped", tail="fc3", epochs=epochs, watch=watch)
    victim = obtain_victim(spec, digits, cache, CPU)
    assert victim.seen is not None
    assert torch.equal(victim.seen.batch_sizes, torch.full((1, 30), batch_size))
    images = digits.victim.images[victim.seen.positions]
    torch.testing.assert_close(victim.seen.smashed[0], victim.smash(images, victim.protection), atol=1e-5, rtol=0)


def test_alone_in_its_batch_a_sample_gives_the_gradient_of_its_own_loss(digits: Dataset, cache: Path) -> None:
    spec = victim_spec(digits, topology="u_shaped", tail="fc3", epochs=0, watch=replace(WATCH, batch_size=1))
    victim = obtain_victim(spec, digits, cache, CPU)
    assert victim.seen is not None
    bias = victim.seen.weight_gradients["fc3.bias"][0]
    assert torch.equal(bias.argmin(1), digits.victim.labels[victim.seen.positions])


def test_a_frozen_pass_moves_no_weight_and_trains_no_victim_again(digits: Dataset, tmp_path: Path) -> None:
    plain = obtain_victim(victim_spec(digits), digits, tmp_path, CPU)
    spec = victim_spec(digits, topology="u_shaped", tail="fc3", watch=replace(WATCH, batch_size=1))
    assert spec.weights_key() == plain.spec.weights_key()
    assert same(plain, obtain_victim(spec, digits, tmp_path, CPU))


def test_watching_an_untrained_victim_is_refused(digits: Dataset, cache: Path) -> None:
    with pytest.raises(UserError, match=r"set training\.epochs to 1 or more"):
        obtain_victim(victim_spec(digits, epochs=0, watch=WATCH), digits, cache, CPU)
