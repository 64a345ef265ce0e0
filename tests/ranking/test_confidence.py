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


def usual(fitted, significance):
    """Confidence of pairs whose similarity says nothing."""
    return fitted(significance, np.full(np.shape(significance), fitted.usual, np.float32))


def test_odds_grow_with_the_third_power_of_the_evidence():
    confidence = Confidence(midpoint=10.0, scale=2.0)
    significance = np.array([[10, 20], [5, 40]], np.float32)
    found = confidence(significance, np.zeros((2, 2), np.float32))
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array([[1 / 2, 8 / 9], [1 / 9, 64 / 65]]))


def test_similarity_adds_evidence():
    confidence = Confidence(midpoint=10.0, scale=4.0, usual=0.2, deviation=0.1, similarity_weight=0.5)
    similarity = np.array([0.0, 0.2, 0.4], np.float32)
    significance = np.full(3, 9.0, np.float32)
    assert confidence.evidence(significance, similarity) == pytest.approx([5, 9, 13])
    assert confidence(significance, similarity) == pytest.approx(
        [1 / (1 + (10 / e) ** 3) for e in (5, 9, 13)], rel=1e-5
    )


def test_extreme_significance_overflows_nothing():
    found = usual(Confidence(10.0, 0.5), np.array([-1e30, -1e4, 1e4, 1e30], np.float32))
    assert found == pytest.approx([0, 0, 1, 1])
    assert (found >= 0).all()
    assert (found <= 1).all()


@given(st.lists(st.floats(-100, 1000, width=32), min_size=2, max_size=20))
def test_more_significant_is_never_less_confident(significance):
    found = usual(Confidence.fit(*collection(0, 3000)), np.sort(np.array(significance, np.float32)))
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
    assert FALSE_EDGE_RATE / 2 < (usual(fitted, unrelated) >= 0.5).mean() < FALSE_EDGE_RATE * 2
    assert usual(fitted, np.array([200], np.float32))[0] > 0.99


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
        pytest.approx(100 * (1 - share[0]) / share[0], rel=0.15)
    ] * 2
    assert 0.05 < share[0] < 0.95


def test_similarity_is_measured_on_the_collection_and_counts_less_in_a_small_one():
    significance, similarity = collection(5, 20_000)
    fitted = Confidence.fit(significance, similarity)
    assert fitted.usual == pytest.approx(np.median(similarity))
    assert fitted.deviation == pytest.approx(1.4826 * np.median(np.abs(similarity - fitted.usual)))
    small = Confidence.fit(significance[:60], similarity[:60])
    assert small.similarity_weight < 0.2 * fitted.similarity_weight
    # All equally similar: similarity says nothing, instead of everything.
    alike = Confidence.fit(significance, np.full(len(significance), 0.5, np.float32))
    assert alike.similarity_weight == 0


@pytest.mark.parametrize(
    ("among_unrelated", "moved"), [(0.01, 0.02), (0.02, 0.03), (0.05, 0.06), (0.1, 0.12), (0.2, 0.3)]
)
def test_some_related_pairs_among_the_dissimilar_move_it_little(among_unrelated, moved):
    clean = Confidence.fit(*collection(4, 10_000))
    fitted = Confidence.fit(*collection(4, 10_000, among_unrelated=among_unrelated))
    assert clean.midpoint * 0.98 <= fitted.midpoint < clean.midpoint * (1 + moved)


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


@pytest.mark.parametrize("without", [0.3, 0.8])
def test_pairs_without_a_model_stand_for_their_number(without):
    significance, similarity = collection(6, 40_000)
    random = np.random.default_rng(6)
    significance -= 5
    none = (similarity < 0.5) & (random.random(len(significance)) < without)
    significance[none] = 0
    fitted = Confidence.fit(significance, similarity)
    assert fitted.midpoint == pytest.approx(4 * math.log((1 - without) / FALSE_EDGE_RATE) - 5, rel=0.1)


def test_the_midpoint_is_at_least_what_the_significance_promises():
    for value in (-3, 0, 0.1):
        significance = np.full(10_000, value, np.float32)
        fitted = Confidence.fit(significance, np.linspace(0, 1, 10_000, dtype=np.float32))
        assert fitted.midpoint >= -math.log10(FALSE_EDGE_RATE)
        assert usual(fitted, significance).max() < 0.01
