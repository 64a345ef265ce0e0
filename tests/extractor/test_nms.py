from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.nms import suppress


def overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """Intersection over union of two squares (x, y, side), from their corners."""
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[2] / 2, b[1] + b[2] / 2) - max(a[1] - a[2] / 2, b[1] - b[2] / 2)
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] ** 2 + b[2] ** 2 - shared)


def kept(boxes: list[tuple[float, float, float]], iou: float, limit: int = 1000) -> list[int]:
    array = np.array(boxes, np.float32).reshape(-1, 3)
    found = suppress(np.ascontiguousarray(array[:, :2]), np.ascontiguousarray(array[:, 2]), iou, limit)
    return [int(i) for i in found]


def test_by_hand() -> None:
    # The second overlaps the first by half: 50 of 150. The third is inside the first: 25 of 100.
    boxes = [(0.0, 0.0, 10.0), (5.0, 0.0, 10.0), (0.0, 0.0, 5.0), (100.0, 0.0, 10.0)]
    assert kept(boxes, 0.34) == [0, 1, 2, 3]
    assert kept(boxes, 0.33) == [0, 2, 3]
    assert kept(boxes, 0.2) == [0, 3]
    assert kept(boxes, 0.34, limit=2) == [0, 1]
    assert kept([], 0.5) == []


def test_what_was_suppressed_suppresses_nothing() -> None:
    assert kept([(0.0, 0.0, 10.0), (6.0, 0.0, 10.0), (12.0, 0.0, 10.0)], 0.2) == [0, 2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from((4, 8, 16))), max_size=25),
    st.sampled_from((0.0, 0.1, 0.4, 0.9, 1.0)),
)
def test_against_the_definition(boxes: list[tuple[int, int, int]], iou: float) -> None:
    expected: list[int] = []
    for i, box in enumerate(boxes):
        if all(overlap(box, boxes[k]) <= iou + 1e-6 for k in expected):
            expected.append(i)
    found = kept([(float(x), float(y), float(side)) for x, y, side in boxes], iou)
    if not any(abs(overlap(a, b) - iou) < 1e-5 for i, a in enumerate(boxes) for b in boxes[:i]):
        assert found == expected
    if iou == 1:
        assert found == list(range(len(boxes)))


@pytest.mark.parametrize("limit", [1, 3])
def test_limit(limit: int) -> None:
    assert kept([(50.0 * i, 0.0, 10.0) for i in range(5)], 0.5, limit) == list(range(limit))
