from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.decoding.reading import COMPONENTS, MOST_FEATURES, MOST_MAPS, Reader
from benchmark.seeds import Rng


def smashed(*shape: int) -> Tensor:
    return Rng("smashed").normal(shape).cumsum(1)


@pytest.mark.parametrize("change", [lambda z: 1e-3 * z, lambda z: z + 1000, lambda z: 1e4 * z + 7])
def test_gain_and_offset_do_not_show_in_what_is_read(change: object) -> None:
    z = smashed(60, 4, 6, 6)
    changed = change(z)  # type: ignore[operator]
    before, after = Reader.of(z, (12, 12)), Reader.of(changed, (12, 12))
    assert torch.allclose(after.features(changed), before.features(z), atol=2e-3)
    assert torch.allclose(after.maps(changed), before.maps(z), atol=2e-3)


def test_a_unit_that_never_changes_says_nothing_whatever_its_value() -> None:
    z = smashed(50, 6)
    z[:, 2] = 12345.678
    features = Reader.of(z, (4, 4)).features(z)
    assert (features[:, 2] == 0).all()
    assert (features[:, 3].std() - 1).abs() < 1e-4


def test_a_unit_that_moves_a_little_beside_a_large_constant_is_read() -> None:
    z = torch.full((200, 1), 1000.0)
    z[::50] += 0.1
    assert Reader.of(z, (4, 4)).features(z).abs().max() > 1


def test_many_units_are_read_as_components_that_keep_their_distances() -> None:
    z = smashed(40, MOST_FEATURES + 1)
    features = Reader.of(z, (4, 4)).features(z)
    assert features.shape[1] <= min(COMPONENTS, 40)
    standard = ((z - z.mean(dim=0)) / z.std(dim=0)).clamp(-6, 6)
    assert torch.allclose(torch.cdist(features, features), torch.cdist(standard, standard), rtol=1e-2, atol=0.5)


@pytest.mark.parametrize(
    ("client", "size"),
    [
        (nn.Identity(), 28),
        (nn.AvgPool2d(2), 28),
        (nn.AvgPool2d(4), 28),
        (nn.Sequential(nn.ZeroPad2d(-2), nn.AvgPool2d(2)), 28),
        (nn.ZeroPad2d(-2), 28),
        (nn.AvgPool2d(2), 30),
        (nn.Identity(), 15),
    ],
    ids=["whole", "halved", "quartered", "border lost, halved", "border lost", "odd half", "odd"],
)
def test_maps_lie_over_the_image_they_come_from(client: nn.Module, size: int) -> None:
    # A bright quadrant: where it is in the maps must be where it is in the image.
    images = torch.zeros(8, 1, size, size)
    images[::2, :, : size // 2, size // 2 :] = 1
    z = client(images)
    reader = Reader.of(z, (size, size))
    maps = reader.maps(z[:1])
    assert maps is not None
    half = -(-size // 2)
    assert maps.shape[2:] == (half, half)
    mean = maps[0].mean(dim=0)
    inside, outside = mean[1 : half // 2 - 1, half // 2 + 1 : -1], mean[half // 2 + 1 :, : half // 2 - 1]
    assert inside.mean() > 0.5
    assert outside.abs().max() < 1e-5


def test_many_channels_are_mixed_to_a_few_maps() -> None:
    z = smashed(20, MOST_MAPS + 5, 4, 4)
    maps = Reader.of(z, (8, 8)).maps(z)
    assert maps is not None
    assert maps.shape == (20, MOST_MAPS, 4, 4)


def test_what_is_no_map_is_read_as_features_alone() -> None:
    assert Reader.of(smashed(20, 9), (8, 8)).maps(smashed(20, 9)) is None
