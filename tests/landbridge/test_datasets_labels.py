"""Readers and metrics on the complete label files of Oxford5k, Paris6k, ROxford5k and RParis6k."""

import os
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.special import digamma

from landbridge.datasets.revisited import read_ground_truth
from ranking.metrics import evaluate

pytestmark = pytest.mark.skipif(
    "LANDBRIDGE_DATA" not in os.environ,
    reason="LANDBRIDGE_DATA does not name the folder with the label files",
)
PROTOCOLS = [
    ("oxford5k", "all", 55),
    ("paris6k", "all", 55),
    *(("roxford5k", protocol, count) for protocol, count in (("easy", 68), ("medium", 70), ("hard", 70))),
    *(("rparis6k", protocol, 70) for protocol in ("easy", "medium", "hard")),
]


@cache
def labels(name):
    return read_ground_truth(Path(os.environ["LANDBRIDGE_DATA"], "gnd", f"gnd_{name}.pkl"))


@pytest.fixture(params=PROTOCOLS, ids=lambda param: f"{param[0]}-{param[1]}")
def judged(request):
    """The ids of the index, the truths of a protocol, and the number of queries with positives."""
    name, protocol, count = request.param
    return labels(name).index_ids, labels(name).protocols()[protocol], count


def positives_first(index, truth):
    return sorted(index, key=lambda item: item not in truth.positives)


def test_a_perfect_ranking_has_100(judged):
    index, truths, count = judged
    result = evaluate({query: positives_first(index, truth) for query, truth in truths.items()}, truths)
    assert len(result.queries) == count
    assert result.average_precision == pytest.approx(np.full(count, 100))
    recalls = {f"Recall@{k}": 100 for k in (1, 5, 10)}
    assert result.means() == pytest.approx({"mAP": 100, "mP@10": 100} | recalls)


def test_a_reversed_ranking_has_the_derived_value(judged):
    # N photos are left without the junk and the R positives are the last of them, at ranks N - R … N - 1.
    # With f(j) = j / (N - R + j), the precision once j positives are found at place N - R + j, trapezoids
    # give
    #   2 R AP = sum_{j<R} f(j) + f(j+1) = f(0) + 2 (f(1) + … + f(R-1)) + f(R),   f(0) = 0, f(R) = R / N
    # and f(j) = 1 - (N-R) / (N-R+j) turns the sum into harmonic numbers, H(n) - H(m) = psi(n+1) - psi(m+1):
    #   f(1) + … + f(R-1) = (R - 1) - (N - R) (psi(N) - psi(N - R + 1))
    index, truths, _ = judged
    rankings = {query: positives_first(index, truth)[::-1] for query, truth in truths.items()}
    result = evaluate(rankings, truths)
    for query, score in zip(result.queries, result.average_precision, strict=True):
        R, N = len(truths[query].positives), len(index) - len(truths[query].junk)
        inner = (R - 1) - (N - R) * (digamma(N) - digamma(N - R + 1))
        assert score == pytest.approx(100 * (2 * inner + R / N) / (2 * R), rel=1e-7)
    # More than ten wrong photos come first for every query.
    assert result.means()["mP@10"] == 0


def test_junk_anywhere_changes_nothing(judged):
    index, truths, _ = judged
    drawn = random.Random(3)
    rankings = {query: drawn.sample(index, len(index)) for query in truths}
    moved = {}
    for query, ranking in rankings.items():
        moved[query] = [item for item in ranking if item not in truths[query].junk]
        for item in sorted(truths[query].junk):
            moved[query].insert(drawn.randrange(len(moved[query]) + 1), item)
    before, after = evaluate(rankings, truths), evaluate(moved, truths)
    assert moved != rankings
    assert np.array_equal(before.average_precision, after.average_precision)
    assert np.array_equal(before.precision_at[10], after.precision_at[10])


def test_the_known_score_of_the_shared_descriptors():
    # The data's own notes give 0.403 for these 128-d descriptors in the classic protocol.
    path = Path(os.environ["LANDBRIDGE_DATA"], "oxford5k_descriptors", "oxford_features.fvecs")
    rows = np.fromfile(path, "<f4").reshape(5063, 129)[:, 1:]
    descriptors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    truth = labels("oxford5k").protocols()["all"]
    index = np.array(sorted(labels("oxford5k").index_ids))
    of = {item: row for row, item in enumerate(index)}
    rankings = {query: index[np.argsort(-(descriptors @ descriptors[of[query]]))] for query in truth}
    assert evaluate(rankings, truth).means()["mAP"] == pytest.approx(40.3, abs=0.05)
