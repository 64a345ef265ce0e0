from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from extractor.deformable_convolution import deformable_convolution, sample_pixels


def test_sampling_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    places = torch.tensor(
        [[[[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.5, 0.5], [-0.5, 0.0], [1.5, 1.5], [9, 9]]]]
    )
    assert sample_pixels(x, places)[0, 0, 0].tolist() == pytest.approx([1, 2, 1.5, 2.5, 0.5, 1, 0], abs=1e-6)
    assert sample_pixels(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 2)).item() == 1


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_without_shifts_it_is_a_convolution(kernel: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 6, 7), torch.randn(4, 3, kernel, kernel)
    found = deformable_convolution(x, torch.zeros(2, 2 * kernel**2, 6, 7), weight)
    torch.testing.assert_close(found, functional.conv2d(x, weight, padding=kernel // 2), atol=1e-4, rtol=1e-4)


def test_against_loops() -> None:
    torch.manual_seed(1)
    height, width = 5, 6
    x, weight = torch.randn(1, 2, height, width).double(), torch.randn(3, 2, 3, 3).double()
    offsets = (2 * torch.randn(1, 18, height, width)).double()
    found = deformable_convolution(x, offsets, weight)

    def pixel(channel: int, row: int, column: int) -> float:
        inside = 0 <= row < height and 0 <= column < width
        return x[0, channel, row, column].item() if inside else 0.0

    for out, row, column in itertools.product(range(3), range(height), range(width)):
        total = 0.0
        for tap, channel in itertools.product(range(9), range(2)):
            y = row + tap // 3 - 1 + offsets[0, 2 * tap, row, column].item()
            z = column + tap % 3 - 1 + offsets[0, 2 * tap + 1, row, column].item()
            top, left = math.floor(y), math.floor(z)
            value = sum(
                (1 - abs(y - a)) * (1 - abs(z - b)) * pixel(channel, a, b)
                for a in (top, top + 1)
                for b in (left, left + 1)
            )
            total += weight[out, channel, tap // 3, tap % 3].item() * value
        assert found[0, out, row, column].item() == pytest.approx(total, abs=1e-9)
