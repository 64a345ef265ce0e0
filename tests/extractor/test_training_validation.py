from __future__ import annotations

import numpy as np
import pytest

from extractor.training import validation
from extractor.training.validation import retrieval_map
from ranking.metrics import Truth, evaluate


def test_map_by_hand() -> None:
    # By cosine, photo 0 finds 1 (wrong) then 2 (right): AP = (0 / 1 + 1 / 2) / 2; photo 2 finds 1, then 0.
    angles = np.radians([0, 10, 25])
    descriptors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert retrieval_map(descriptors, np.array([7, 3, 7])) == pytest.approx(25.0)


def test_map_as_the_evaluation_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "_BLOCK", 7)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, 40)
    descriptors = rng.normal(size=(40, 6)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    similarity = descriptors @ descriptors.T
    rankings = {}
    truths = {}
    for query in range(40):
        rankings[query] = [int(i) for i in np.argsort(-similarity[query], kind="stable")]
        others = frozenset(int(i) for i in np.flatnonzero(labels == labels[query]) if i != query)
        truths[query] = Truth(others, frozenset({query}))
    expected = evaluate(rankings, truths, "trapezoid").means()["mAP"]
    assert retrieval_map(descriptors, labels) == pytest.approx(expected, abs=1e-4)


def test_single_photos_are_found_and_do_not_search() -> None:
    descriptors = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="no landmark has two photos"):
        retrieval_map(descriptors, np.array([0, 1, 2]))
    angles = np.radians([0, 10, 25])
    close = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    # Photo 1 finds 0 (wrong) then 2; photo 2 finds 1 at once; photo 0 has none to find.
    assert retrieval_map(close, np.array([0, 1, 1])) == pytest.approx((25 + 100) / 2)
