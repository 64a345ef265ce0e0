from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractor.extractor import Extractor
from extractor.registry import create_extractor
from extractor.threads import one_torch_thread

Texture = Callable[..., NDArray[np.uint8]]


def make_texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise of several sizes, uint8 [H, W, 3]: corners and blobs at every scale."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (4, 9, 23):
        coarse = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    total -= total.min()
    return (total / total.max() * 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def texture() -> Texture:
    return make_texture


@pytest.fixture(scope="session")
def default_extractor() -> Extractor:
    return create_extractor()
