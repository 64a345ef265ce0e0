import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.confidence import FALSE_EDGE_RATE, Confidence

NONE = np.zeros(0, np.float32)


def collection(seed, unrelated, decay=4.0, related=0.5, among_unrelated=0.0):
    """Significance and similarity of pairs: chance decays exponentially, related pairs are far beyond it.

    `related` pairs for every unrelated one are similar, `among_unrelated` of the dissimilar ones are related.
    """
    random = np.random.default_rng(seed)
    chance = random.exponential(decay, unrelated)
    hidden = round(among_unrelated * unrelated)
    chance[:hidden] = random.uniform(30 * decay, 90 * decay, hidden)
    true = random.uniform(0, 90 * decay, round(related * unrelated))
    significance = np.concatenate([chance, true])
    similarity = np.concatenate([random.uniform(0, 0.4, unrelated), random.uniform(0.6, 1, len(true))])
    order = random.permutation(len(significance))
    return significance[order].astype(np.float32), similarity[order].astype(np.float32)


def test_half_at_the_midpoint_and_logistic_around_it():
    confidence = Confidence(midpoint=10.0, scale=2.0)
    found = confidence(np.array([[10, 12], [8, 10 + 2 * math.log(9)]], np.float32))
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array([[0.5, 1 / (1 + math.exp(-1))], [1 / (1 + math.e), 0.9]]))


def test_extreme_significance_overflows_nothing():
    found = Confidence(10.0, 0.5)(np.array([-1e30, -1e4, 1e4, 1e30], np.float32))
    assert found == pytest.approx([0, 0, 1, 1])
    assert (found >= 0).all()
    assert (found <= 1).all()


@given(st.lists(st.floats(-100, 1000, width=32), min_size=2, max_size=20))
def test_more_significant_is_never_less_confident(significance):
    found = Confidence.fit(*collection(0, 3000))(np.sort(np.array(significance, np.float32)))
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("decay", [2.0, 4.0, 9.0])
@pytest.mark.parametrize("related", [0.0, 0.5, 1.0])
def test_the_midpoint_is_the_tail_quantile_of_unrelated_pairs(decay, related):
    fitted = Confidence.fit(*collection(1, 20_000, decay, related))
    assert fitted.midpoint == pytest.approx(decay * math.log(1 / FALSE_EDGE_RATE), rel=0.06)
    assert fitted.scale == pytest.approx(decay, rel=0.06)


def test_few_unrelated_pairs_pass_and_most_related_ones():
    fitted = Confidence.fit(*collection(2, 20_000))
    unrelated, _ = collection(3, 20_000, related=0.0)
    assert FALSE_EDGE_RATE / 2 < (fitted(unrelated) >= 0.5).mean() < FALSE_EDGE_RATE * 2
    assert fitted(np.array([200], np.float32))[0] > 0.99


def test_only_the_less_similar_half_counts():
    significance = np.concatenate([np.full(5000, 1.0), np.full(5000, 400.0)]).astype(np.float32)
    similarity = np.concatenate([np.full(5000, 0.1), np.full(5000, 0.9)]).astype(np.float32)
    assert Confidence.fit(significance, similarity).midpoint < 20
    assert Confidence.fit(significance, -similarity).midpoint > 300


def test_without_pairs_there_is_a_prior_and_few_pairs_move_it_little():
    prior = Confidence.fit(NONE, NONE)
    assert prior.midpoint > 0
    assert prior.scale > 0
    distances = []
    for pairs in (2, 20, 200, 2000, 20_000):
        significance = np.full(pairs, 50.0, np.float32)
        fitted = Confidence.fit(significance, np.zeros(pairs, np.float32))
        distances.append(abs(fitted.midpoint - prior.midpoint))
    assert distances == sorted(distances)
    assert distances[0] < 0.05 * distances[-1]
    # All of them equal: the quantiles are 50, and the map is as steep as it gets.
    assert fitted.midpoint == pytest.approx(50, rel=0.1)
    assert Confidence.fit(np.full(10**6, 50.0, np.float32), np.zeros(10**6, np.float32)).scale > 0.1


def test_the_prior_and_the_pairs_weigh_the_same_at_some_size():
    def midpoint(pairs):
        significance = np.tile(np.linspace(0, 40, 20), pairs // 20).astype(np.float32)
        return Confidence.fit(significance, np.zeros(len(significance), np.float32)).midpoint

    prior, measured = Confidence.fit(NONE, NONE).midpoint, midpoint(400_000)
    # weight = n / (n + c) for one c: two sizes give the same.
    share = [(midpoint(n) - prior) / (measured - prior) for n in (100, 1000)]
    assert [n * (1 - w) / w for n, w in zip((100, 1000), share, strict=True)] == [
        pytest.approx(100 * (1 - share[0]) / share[0], rel=0.1)
    ] * 2
    assert 0.05 < share[0] < 0.95


@pytest.mark.parametrize(("among_unrelated", "moved"), [(0.01, 0.1), (0.02, 0.2), (0.05, 0.5)])
def test_some_related_pairs_among_the_dissimilar_move_it_little(among_unrelated, moved):
    clean = Confidence.fit(*collection(4, 10_000))
    fitted = Confidence.fit(*collection(4, 10_000, among_unrelated=among_unrelated))
    assert clean.midpoint <= fitted.midpoint < clean.midpoint * (1 + moved)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 300, width=32), max_size=30), st.randoms(use_true_random=False))
def test_any_sample_gives_a_usable_map_whatever_its_order(significance, random):
    pairs = [(value, random.random()) for value in significance]
    shuffled = random.sample(pairs, len(pairs))

    def fit(pairs):
        table = np.array(pairs, np.float32).reshape(-1, 2)
        return Confidence.fit(table[:, 0], table[:, 1])

    fitted = fit(pairs)
    assert math.isfinite(fitted.midpoint)
    assert fitted.scale > 0
    assert fit(shuffled) == fitted


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 significances, but 2 similarities"):
        Confidence.fit(np.zeros(3, np.float32), np.zeros(2, np.float32))
