from __future__ import annotations

import pytest
import torch

from extractor.pooling import gem, mac, regional_mac, regions


def test_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]]])
    torch.testing.assert_close(gem(features, 1), torch.tensor([[2.5, 0.5]]))
    # (1 + 8 + 27 + 64) / 4 = 25 and 8 / 4 = 2, cube roots of which:
    torch.testing.assert_close(gem(features, 3), torch.tensor([[2.924018, 1.259921]]))
    torch.testing.assert_close(gem(features, 60), torch.tensor([[4.0, 2.0]]), rtol=0.03, atol=0)


def test_average_keeps_negative_values() -> None:
    assert gem(torch.tensor([[[[-3.0, 1.0]]]]), 1).item() == -1


@pytest.mark.parametrize("power", [1, 1.5, 3])
def test_places_do_not_matter(power: float) -> None:
    features = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    shuffled = features.flatten(2)[:, :, torch.randperm(42)].reshape(features.shape)
    pooled = gem(features, power)
    assert pooled.shape == (2, 5)
    torch.testing.assert_close(pooled, gem(shuffled, power))


def test_mac_by_hand() -> None:
    features = torch.tensor([[[[1.0, 5.0], [3.0, 4.0]], [[-3.0, -1.0], [-2.0, -9.0]]]])
    assert mac(features).tolist() == [[5.0, -1.0]]


def test_regions_by_hand() -> None:
    # A square map: one region is the map, then 2 x 2 of side 2 * 6 // 3 = 4, then 3 x 3 of side 3.
    assert regions(6, 6, 3) == [
        (0, 0, 6),
        *[(row, column, 4) for row in (0, 2) for column in (0, 2)],
        *[(row, column, 3) for row in (0, 1, 3) for column in (0, 1, 3)],
    ]
    # 4 x 6: with two regions of side 4 along the longer axis the overlap is 1 - 2 / 4, with three it would be
    # 1 - 1 / 4: the first is nearer to 0.4. Level 2 has side 8 // 3 = 2, two regions down and three across.
    assert regions(4, 6, 2) == [
        (0, 0, 4),
        (0, 2, 4),
        *[(row, column, 2) for row in (0, 2) for column in (0, 2, 4)],
    ]
    assert regions(6, 4, 2) == [
        (0, 0, 4),
        (2, 0, 4),
        *[(row, column, 2) for row in (0, 2, 4) for column in (0, 2)],
    ]
    # A long map: 1 - (30 - 10) / 3 / 10 = 0.33 with four, 1 - 20 / 4 / 10 = 0.5 with five; 0.33 is nearer.
    assert regions(10, 30, 1) == [(0, 0, 10), (0, 6, 10), (0, 13, 10), (0, 20, 10)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (40, 3)])
def test_regions_lie_inside_maps_of_any_shape(shape: tuple[int, int]) -> None:
    found = regions(*shape, 3)
    assert found[0] == (0, 0, min(shape))
    for row, column, side in found:
        assert side >= 1
        assert row >= 0 <= column
        assert row + side <= shape[0]
        assert column + side <= shape[1]


def test_regional_maxima_by_brute_force() -> None:
    features = torch.rand(1, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    pooled = regional_mac(features, 3)[0]
    found = [(0, 0, 5, 8)] + [(r, c, s, s) for r, c, s in regions(5, 8, 3)]
    assert pooled.shape == (len(found), 4)
    for vector, (row, column, height, width) in zip(pooled, found, strict=True):
        for channel in range(4):
            values = [
                features[0, channel, y, x].item()
                for y in range(row, row + height)
                for x in range(column, column + width)
            ]
            assert vector[channel].item() == max(values)
