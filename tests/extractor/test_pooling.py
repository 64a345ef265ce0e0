from __future__ import annotations

import pytest
import torch

from extractor.pooling import gem


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
