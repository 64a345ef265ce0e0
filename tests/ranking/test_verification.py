import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.features import LocalFeatures
from ranking.verification import BatchedVerifier, Verification
from ranking.verification.batched.homography import (
    MINIMAL,
    PULL,
    bend,
    count_inliers,
    fit_homography,
    fit_linear,
    plausible,
    signature,
    solve,
    tolerance,
)
from ranking.verification.significance import chance_of_agreement

SIZE = np.array([640.0, 480.0])
VERIFIER = BatchedVerifier(threads=1)

TURNED = np.array([[0.94, -0.34, 60], [0.34, 0.94, -40], [0, 0, 1]])  # 20 degrees
SHEARED = np.array([[1.1, 0.25, -30], [-0.1, 0.8, 50], [0, 0, 1]])
SHRUNK = np.array([[0.5, 0, 100], [0, 0.5, 80], [0, 0, 1]])
OBLIQUE = np.array([[1.3, 0.1, -40], [0.15, 1.1, -30], [9e-4, 1e-4, 1]])


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def features(points, descriptors):
    points = np.asarray(points, np.float32)
    n = len(points)
    return LocalFeatures(points, np.ones(n, np.float32), np.ones(n, np.float32), descriptors)


def some_features(random, n, dimension=64):
    """Unrelated to any others: random unit vectors of 64 components are far from one another."""
    return features(random.random((n, 2)) * SIZE, unit(random.normal(size=(n, dimension))))


def mapped(model, points):
    ahead = np.column_stack([points, np.ones(len(points))]) @ model.T
    return ahead[:, :2] / ahead[:, 2:]


def scene(seed, model, true=200, wrong=100, lone=100, noise=1.0):
    """A query and a candidate that shows it under a homography.

    Feature i < `true` of the query is feature `order[i]` of the candidate, `noise` pixels off; the next
    `wrong` have a like descriptor at an unlike place, and `lone` more on both sides are like nothing.
    """
    random = np.random.default_rng(seed)
    both = true + wrong
    points = random.random((both, 2)) * SIZE
    images = mapped(model, points) + random.normal(scale=noise, size=points.shape)
    images[true:] = random.uniform(images[:true].min(0), images[:true].max(0), (wrong, 2))
    descriptors = unit(random.normal(size=(both, 64)))
    like = unit(descriptors + random.normal(scale=0.04, size=descriptors.shape))
    order = random.permutation(both + lone)
    theirs = features(
        np.vstack([images, random.uniform(images.min(0), images.max(0), (lone, 2))])[np.argsort(order)],
        np.vstack([like, some_features(random, lone).descriptors])[np.argsort(order)],
    )
    alone = some_features(random, lone)
    ours = features(np.vstack([points, alone.keypoints]), np.vstack([descriptors, alone.descriptors]))
    return ours, theirs, order[:true]


def verify(query, candidate, verifier=VERIFIER):
    (result,) = verifier.verify(query, [candidate])
    check(result, query, candidate)
    return result


def check(result, query, candidate):
    """What holds for any result."""
    assert result.matches.dtype == np.int32
    assert result.matches.shape == (result.inliers, 2)
    assert result.inliers <= result.putatives <= min(len(query), len(candidate))
    for side, photo in zip(result.matches.T, (query, candidate), strict=True):
        assert len(set(side.tolist())) == result.inliers
        assert ((side >= 0) & (side < len(photo))).all()
    assert result.model.shape == (3, 3)
    assert result.model.dtype == np.float64
    assert np.isfinite(result.model).all()
    assert math.isfinite(result.significance)
    if result.inliers:
        assert result.inliers >= MINIMAL
    else:
        assert (result.model == np.eye(3)).all()
        assert result.significance == 0


def columns(points):
    """Laid out as the kernels lay them out: compiled once for both."""
    return np.asfortranarray(points, np.float64)


def same(one, other):
    return (
        one.putatives == other.putatives
        and (one.matches == other.matches).all()
        and (one.model == other.model).all()
        and one.significance == other.significance
    )


def nothing(result):
    return (result.inliers, result.significance) == (0, 0)


@pytest.mark.parametrize(
    ("model", "pixels"),
    [
        (np.eye(3), 1.5),
        (TURNED, 1.5),
        (SHEARED, 1.5),
        (SHRUNK, 1.5),
        (np.linalg.inv(SHRUNK), 3),
        (OBLIQUE, 2),
        (np.linalg.inv(OBLIQUE), 4),
    ],
    ids=["equal", "turned", "sheared", "shrunk", "enlarged", "oblique", "oblique-inverse"],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_finds_the_model_among_outliers(model, pixels, seed):
    query, candidate, partner = scene(seed, model, noise=0.8)
    result = verify(query, candidate)
    right = sum(i < len(partner) and partner[i] == j for i, j in result.matches)
    assert result.putatives == 300
    assert right >= 0.9 * len(partner)
    assert right >= 0.95 * result.inliers
    inside = query.keypoints[: len(partner)].astype(np.float64)
    error = np.linalg.norm(mapped(result.model, inside) - mapped(model, inside), axis=1)
    assert np.percentile(error, 95) < pixels
    assert result.significance > 50


def test_most_matches_may_be_wrong():
    query, candidate, partner = scene(3, SHEARED, true=40, wrong=160)
    result = verify(query, candidate)
    right = sum(i < len(partner) and partner[i] == j for i, j in result.matches)
    assert right >= 0.9 * len(partner)
    assert result.significance > 5


@pytest.mark.parametrize("corner", [(0, 0), (240, 180), (480, 360)])
def test_a_crop_enlarged_four_times(corner):
    query, _, _ = scene(4, np.eye(3), true=1500, wrong=0)
    inside = np.flatnonzero(((query.keypoints >= corner) & (query.keypoints < corner + SIZE / 4)).all(1))
    crop = features(4 * (query.keypoints[inside] - corner), query.descriptors[inside])
    for one, other in ((query, crop), (crop, query)):
        result = verify(one, other)
        assert result.putatives == len(inside)
        assert result.inliers >= 0.95 * len(inside)
    assert result.model / result.model[2, 2] == pytest.approx(
        np.array([[0.25, 0, corner[0]], [0, 0.25, corner[1]], [0, 0, 1]]), abs=0.5
    )


def test_the_threshold_counts_where_the_motif_is_smaller():
    # As far off as the threshold in the crop is a quarter of it in the photo.
    query, _, _ = scene(4, np.eye(3), true=1500, wrong=0, lone=0)
    inside = np.flatnonzero((query.keypoints < SIZE / 4).all(1))
    turn = np.random.default_rng(4).uniform(0, 2 * math.pi, len(inside))
    off = 1.2 * VERIFIER.threshold * SIZE.max() * np.column_stack([np.cos(turn), np.sin(turn)])
    crop = features(4 * query.keypoints[inside] + off, query.descriptors[inside])
    for one, other in ((query, crop), (crop, query)):
        assert verify(one, other).inliers >= 0.95 * len(inside)
    same_size = features(query.keypoints[inside] + off, query.descriptors[inside])
    assert verify(query, same_size).inliers < 0.8 * len(inside)


def test_unrelated_photos_are_not_significant():
    # Two hundred like descriptors, all at unlike places.
    results = [verify(*scene(seed, np.eye(3), true=1, wrong=200)[:2]) for seed in range(8)]
    assert {result.putatives for result in results} == {201}
    assert max(result.significance for result in results) < 3
    assert sum(result.significance > 0 for result in results) <= 3
    random = np.random.default_rng(5)
    assert verify(some_features(random, 300), some_features(random, 300)).putatives == 0


def test_photos_turned_on_their_side_are_not_tried():
    quarter = np.array([[0, -1, 480], [1, 0, 0], [0, 0, 1.0]])
    assert verify(*scene(6, quarter, wrong=0)[:2]).significance < 10


def test_noise_beyond_the_threshold_is_no_inlier():
    query, candidate, partner = scene(7, np.eye(3), wrong=0, noise=0.5)
    off = 3 * VERIFIER.threshold * SIZE.max()
    shifted = candidate.keypoints.copy()
    shifted[partner[::4], 1] += off
    result = verify(query, replace(candidate, keypoints=shifted))
    kept = {i for i in range(len(partner)) if i % 4}
    assert set(result.matches[:, 0].tolist()) == kept


def test_four_matches_are_a_model_and_no_evidence():
    random = np.random.default_rng(8)
    points = np.array([[0, 0], [640, 20], [600, 480], [30, 400.0]])
    for n, inliers in ((4, 4), (3, 0), (2, 0), (1, 0)):
        descriptors = unit(random.normal(size=(n, 64)))
        query, candidate = features(points[:n], descriptors), features(points[:n] + 7, descriptors)
        result = verify(query, candidate)
        assert (result.putatives, result.inliers) == (n, inliers)
        assert result.significance <= 0


def test_one_side_without_features():
    none, one = LocalFeatures.empty(64), some_features(np.random.default_rng(9), 1)
    many, _, _ = scene(9, np.eye(3))
    for query, candidate in ((none, many), (many, none), (none, none), (one, many), (many, one), (one, one)):
        assert nothing(verify(query, candidate))
    assert verify(one, one).putatives == 1
    assert VERIFIER.verify(many, []) == []


def test_all_points_in_one_place():
    query, candidate, _ = scene(10, np.eye(3))
    stacked = replace(candidate, keypoints=np.full_like(candidate.keypoints, 77.0))
    for one, other in ((query, stacked), (stacked, query), (stacked, stacked)):
        result = verify(one, other)
        assert result.putatives >= 300
        assert nothing(result)


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (3, 1), (1, -2)])
@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
@pytest.mark.parametrize("noise", [0, 0.5])
def test_points_in_a_line_give_a_model_that_holds_on_the_line(direction, model, noise):
    random = np.random.default_rng(11)
    line = 300 + np.outer(random.uniform(-100, 100, 60), direction)
    images = line + 5 + random.normal(scale=noise, size=line.shape)
    descriptors = unit(random.normal(size=(60, 64)))
    verifier = BatchedVerifier(model=model, threads=1)
    result = verify(features(line, descriptors), features(images, descriptors), verifier)
    assert result.putatives == 60
    assert result.inliers >= (45 if noise else 60)
    assert mapped(result.model, line) == pytest.approx(line + 5, abs=3)
    # Each has to hit the length of the line alone: far less evidence than as many matches all over the photo.
    spread = random.random((60, 2)) * SIZE
    wide = verify(features(spread, descriptors), features(spread + 5, descriptors), verifier)
    assert 20 < result.significance < 0.7 * wide.significance


@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
@pytest.mark.parametrize("noise", [0, 2, 6])
def test_wrong_matches_in_a_line_are_not_significant(model, noise):
    """Two cornices: 150 like descriptors in any order along a line, among 600 features all over the photo."""
    verifier = BatchedVerifier(model=model, threads=1)
    for seed in range(4):
        random = np.random.default_rng(seed)
        along = random.uniform(0, 500, (2, 150))
        lone = random.random((2, 600, 2)) * SIZE
        descriptors = unit(random.normal(size=(750, 64)))
        photos = [
            features(
                np.vstack([np.column_stack([60 + x, 200 + slope * x]), rest])
                + random.normal(scale=noise, size=(750, 2)),
                own,
            )
            for x, slope, rest, own in zip(
                along,
                (0.2, -0.1),
                lone,
                (descriptors, np.vstack([descriptors[:150], unit(random.normal(size=(600, 64)))])),
                strict=True,
            )
        ]
        result = verify(*photos, verifier)
        assert result.putatives == 150
        assert result.significance < 3


def rectangle(random, width, height, n=4000):
    """Points all over a rectangle that is turned by 30 degrees."""
    points = (random.random((n, 2)) - 0.5) * [width, height]
    return points @ np.array([[math.sqrt(3), 1], [-1, math.sqrt(3)]]) / 2 + 0.4


def test_chance_of_agreement_by_hand():
    random = np.random.default_rng(40)
    disc = math.pi * 0.01**2 / 0.75
    assert chance_of_agreement(rectangle(random, 0.5, 0.3), 0.01, 0.75) == pytest.approx(disc)
    assert chance_of_agreement(rectangle(random, 0.5, 0.045), 0.01, 0.75) == pytest.approx(disc)
    # Narrower than 2 thresholds: 0.02 of a length of 0.5.
    assert chance_of_agreement(rectangle(random, 0.5, 0.018), 0.01, 0.75) == pytest.approx(0.04, rel=0.02)
    assert chance_of_agreement(rectangle(random, 0.5, 0), 0.01, 0.75) == pytest.approx(0.04, rel=0.02)
    # Three thresholds wide: halfway between, on the scale of logarithms.
    half = math.sqrt(0.04 * disc)
    assert chance_of_agreement(rectangle(random, 0.5, 0.03, 10**6), 0.01, 0.75) == pytest.approx(
        half, rel=0.02
    )
    assert chance_of_agreement(np.full((5, 2), 0.3), 0.01, 0.75) == 1
    assert chance_of_agreement(rectangle(random, 0.5, 0.3), 0.9, 0.75) == 1


def test_zero_descriptors_match_nothing():
    query, candidate, _ = scene(12, np.eye(3))
    for dtype in (np.float32, np.int8):
        blank = replace(candidate, descriptors=np.zeros(candidate.descriptors.shape, dtype))
        for one, other in ((query, blank), (blank, query), (blank, blank)):
            result = verify(one, other)
            assert result.putatives == 0
            assert nothing(result)


def test_descriptors_of_different_length():
    random = np.random.default_rng(13)
    long, short = some_features(random, 20, 64), some_features(random, 20, 32)
    with pytest.raises(ValueError, match="64 in the query, 32 in a candidate"):
        VERIFIER.verify(long, [long, short])
    with pytest.raises(ValueError, match="differ in length"):
        VERIFIER.verify(long, [LocalFeatures.empty(128)])


def test_only_similar_descriptors_are_putative():
    descriptors = np.eye(8, dtype=np.float32)
    tilt = np.linspace(0, 1, 8)
    random = np.random.default_rng(14)
    points = random.random((8, 2)) * SIZE
    candidate = np.zeros((8, 16), np.float32)
    candidate[:, :8] = np.diag(1 - tilt)
    candidate[:, 8:] = np.diag(np.sqrt(1 - (1 - tilt) ** 2))
    query = np.pad(descriptors, ((0, 0), (0, 8)))
    for minimum in (0.2, 0.5, 0.8):
        verifier = BatchedVerifier(minimum_similarity=minimum, threads=1)
        result = verify(features(points, query), features(points, candidate), verifier)
        assert result.putatives == (1 - tilt > minimum).sum()


@pytest.mark.parametrize("model", [TURNED, OBLIQUE, SHRUNK], ids=["turned", "oblique", "shrunk"])
def test_int8_gives_nearly_the_same_inliers(model):
    query, candidate, _ = scene(15, model)
    whole = verify(query, candidate)
    for one, other in (
        (query.quantised(), candidate.quantised()),
        (query, candidate.quantised()),
        (query.quantised(), candidate),
    ):
        quantised = verify(one, other)
        ours, theirs = ({tuple(m) for m in r.matches.tolist()} for r in (whole, quantised))
        assert len(ours ^ theirs) <= 0.03 * len(ours)
        assert quantised.putatives == whole.putatives
        assert quantised.significance == pytest.approx(whole.significance, rel=0.05)


def test_threads_and_company_change_nothing():
    query, first, _ = scene(16, TURNED)
    random = np.random.default_rng(16)
    candidates = [
        first,
        some_features(random, 50),
        LocalFeatures.empty(64),
        features(first.keypoints[::2] * 2, first.descriptors[::2]),
        query,
        first.quantised(),
        scene(17, OBLIQUE)[1],
    ]
    alone = [verify(query, candidate) for candidate in candidates]
    for threads in (1, 4):
        together = BatchedVerifier(threads=threads).verify(query, candidates)
        assert len(together) == len(candidates)
        assert all(same(*pair) for pair in zip(alone, together, strict=True))
    assert len({result.inliers for result in alone}) > 3


@pytest.mark.parametrize(
    "model", [np.eye(3), TURNED, SHRUNK, OBLIQUE], ids=["equal", "turned", "shrunk", "oblique"]
)
@pytest.mark.parametrize("true", [15, 60, 200])
def test_swapped_photos_are_as_significant(model, true):
    """Neither direction is favoured: each is tried, and the better one kept."""
    query, candidate, _ = scene(18, model, true=true)
    there, back = verify(query, candidate), verify(candidate, query)
    assert back.inliers == there.inliers
    assert back.significance == pytest.approx(there.significance, rel=1e-9)
    # Equally good models of the two directions may differ in a match.
    assert len({*map(tuple, there.matches)} ^ {*map(tuple, back.matches[:, ::-1])}) <= 2
    middle = SIZE[None] / 2
    assert mapped(back.model, mapped(there.model, middle)) == pytest.approx(middle, abs=0.3)


def test_pixels_are_relative_to_the_photo():
    query, candidate, _ = scene(19, SHEARED)
    result = verify(query, candidate)
    large = replace(candidate, keypoints=candidate.keypoints * 8)
    enlarged = verify(query, large)
    assert (enlarged.matches == result.matches).mean() > 0.98
    assert enlarged.significance == pytest.approx(result.significance, rel=0.02)
    middle = SIZE[None] / 2
    assert mapped(enlarged.model, middle) == pytest.approx(8 * mapped(result.model, middle), rel=0.01)


def false_alarms(putatives, inliers, chance):
    """-log10 of n C(n, k) C(k, 4) p^(k - 4), with whole binomials."""
    number = putatives * math.comb(putatives, inliers) * math.comb(inliers, 4)
    return -(math.log10(number) + (inliers - 4) * math.log10(chance))


@pytest.mark.parametrize(("true", "wrong"), [(8, 0), (12, 0), (30, 0), (30, 20)])
def test_significance_by_hand(true, wrong):
    # Both photos are squares of 400 pixels, their corners among the matches; wrong ones are far off.
    random = np.random.default_rng(20)
    corners = np.array([[0, 0], [400, 0], [400, 400], [0, 400.0]])
    points = np.vstack([corners, random.uniform(100, 300, (true + wrong - 4, 2))])
    images = points + 9
    images[true:, 1] -= 90
    descriptors = unit(random.normal(size=(len(points), 64)))
    result = verify(features(points, descriptors), features(images, descriptors))
    assert (result.putatives, result.inliers) == (true + wrong, true)
    chance = math.pi * VERIFIER.threshold**2
    assert result.significance == pytest.approx(false_alarms(true + wrong, true, chance))


def test_chance_is_measured_where_the_motif_is_smaller():
    # The candidate is twice as wide as high, and shows the square query at half its size.
    random = np.random.default_rng(21)
    points = np.vstack([[[0, 0], [400, 0], [400, 400], [0, 400.0]], random.uniform(0, 400, (20, 2))])
    descriptors = unit(random.normal(size=(26, 64)))
    query = features(points, descriptors[:24])
    candidate = features(np.vstack([points / 2, [[0, 0], [400, 200]]]), descriptors)
    expected = false_alarms(24, 24, math.pi * VERIFIER.threshold**2 / 0.5)
    assert verify(query, candidate).significance == pytest.approx(expected)
    assert verify(candidate, query).significance == pytest.approx(expected)


def test_fingerprints_tell_parameters_apart_but_not_threads():
    variants = [
        BatchedVerifier(),
        BatchedVerifier(minimum_similarity=0.6),
        BatchedVerifier(threshold=0.05),
        BatchedVerifier(best_matches=7),
    ]
    assert len({verifier.fingerprint for verifier in variants}) == 4
    assert BatchedVerifier(threads=1).fingerprint == BatchedVerifier(threads=3).fingerprint
    assert BatchedVerifier(threads=1) == BatchedVerifier(threads=3)


def test_inliers_counts_matches():
    assert Verification(9, np.zeros((5, 2), np.int32), np.eye(3), 1.0).inliers == 5


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_solve_as_numpy_does(size, seed):
    random = np.random.default_rng(seed)
    matrix, right = random.normal(size=(size, size)), random.normal(size=size)
    matrix[0, 0] = 0  # needs a pivot
    if size > 1:
        expected = np.linalg.solve(matrix, right)
        assert solve(matrix, right)
        assert right == pytest.approx(expected, rel=1e-6, abs=1e-6)
    else:
        assert not solve(matrix, right)


def test_a_singular_system_is_not_solved():
    assert not solve(np.array([[1.0, 2.0], [2.0, 4.0]]), np.ones(2))


def test_affinity_by_least_squares():
    """As by a general solver, with the pull towards the similarity as four more equations."""
    random = np.random.default_rng(22)
    source = random.random((30, 2))
    target = mapped(SHEARED / 100, source) / 3 + random.normal(scale=0.1, size=source.shape)
    chosen = random.random(30) < 0.7
    model = np.zeros(8)
    assert fit_linear(columns(source), columns(target), chosen, 4, model)
    x, y, one, nought = *source[chosen].T, np.ones(chosen.sum()), np.zeros(chosen.sum())
    design = np.vstack([np.column_stack([x, -y, one, nought]), np.column_stack([y, x, nought, one])])
    cosine, sine, right, down = np.linalg.lstsq(design, target[chosen].T.ravel())[0]
    assert model == pytest.approx(np.array([cosine, -sine, right, sine, cosine, down, 0, 0]))
    assert fit_linear(columns(source), columns(target), chosen, 6, model)
    rows = np.vstack([np.column_stack([x, y, one]), math.sqrt(PULL) * np.eye(2, 3)])
    pulled = math.sqrt(PULL) * np.array([[cosine, -sine], [sine, cosine]])
    # The origin does not matter to the pull, as the shift is free.
    expected = np.linalg.lstsq(rows, np.hstack([target[chosen].T, pulled]).T)[0].T
    assert model[:6].reshape(2, 3) == pytest.approx(expected)
    assert np.abs(model[:6].reshape(2, 3) - np.linalg.lstsq(rows[:-2], target[chosen])[0].T).max() > 1e-6
    assert (model[6:] == 0).all()


def test_an_affinity_of_points_in_a_line_is_a_similarity_across_it():
    x = np.linspace(0.1, 0.9, 9)
    source = np.column_stack([x, 0.5 * x])
    target = mapped(TURNED / [[1, 1, 100], [1, 1, 100], [1, 1, 1]] * [[2], [2], [1]], source)
    model = np.zeros(8)
    assert fit_linear(columns(source), columns(target), np.ones(9, np.bool_), 6, model)
    assert model[:6].reshape(2, 3)[:, :2] == pytest.approx(2 * TURNED[:2, :2], abs=1e-6)


def test_no_model_of_points_in_one_place():
    place = columns(np.full((6, 2), 0.3))
    for size in (4, 6):
        assert not fit_linear(place, place, np.ones(6, np.bool_), size, np.zeros(8))
        assert not fit_linear(place, place, np.zeros(6, np.bool_), size, np.zeros(8))


@pytest.mark.parametrize(
    ("model", "holds"),
    [
        ([1, 0, 0, 0, 1, 0, 0, 0], True),
        ([-1, 0, 0, 0, 1, 0, 0, 0], False),  # mirrored
        ([5.9, 0, 0, 0, 5.9, 0, 0, 0], True),
        ([6.1, 0, 0, 0, 6.1, 0, 0, 0], False),
        ([0.16, 0, 0, 0, 0.16, 0, 0, 0], False),
        ([2.4, 0, 0, 0, 0.41, 0, 0, 0], True),  # squeezed to 0.41 / 2.4 = 1 / 5.85
        ([2.4, 0, 0, 0, 0.39, 0, 0, 0], False),  # 1 / 6.15
        ([1, 6.2, 0, 0, 1, 0, 0, 0], False),  # sheared
        (
            [1, 0, 0, 0, 1, 0, -0.5, 0],
            True,
        ),  # at x = 0.9 areas grow by 1 / 0.55 ** 3 = 6.0, lengths at most 3.3
        ([1, 0, 0, 0, 1, 0, -0.8, 0], False),  # at x = 0.9 areas grow by 1 / 0.28 ** 3 = 45.6
    ],
)
def test_plausible_models_by_hand(model, holds):
    source = columns([[0.1, 0.0], [0.5, 0.2], [0.9, 0.1], [1.2, 0.9]])
    inlier = np.array([True, True, True, False])
    assert plausible(np.array(model, np.float64), source, inlier) == holds


def test_plausible_as_by_differences():
    """What a homography does around a point is its derivative there: here by differences."""
    random = np.random.default_rng(41)
    verdicts = []
    for _ in range(300):
        model = np.append([1, 0, 0, 0, 1, 0], [0, 0]) + random.normal(scale=0.6, size=8)
        point = random.random(2)
        around = point + np.array([[0, 0], [1e-6, 0], [0, 1e-6]])
        if not (np.column_stack([around, np.ones(3)]) @ np.append(model[6:], 1) > 0.2).all():
            continue
        images = mapped(np.append(model, 1).reshape(3, 3), around)
        derivative = (images[1:] - images[0]).T / 1e-6
        large, small = np.linalg.svd(derivative)[1]
        area = np.linalg.det(derivative)
        expected = 1 / 36 < area < 36 and large / small < 6
        assert plausible(model, columns(point[None]), np.array([True])) == expected
        verdicts.append(expected)
    assert 60 < sum(verdicts) < len(verdicts) - 60


@pytest.mark.parametrize(
    "model",
    [np.diag([1, 0.13, 1]), np.array([[1, 0, 0], [1.1, 0.13, 0], [0, 0, 1]]), np.diag([1, -0.3, 1])],
    ids=["squeezed", "sheared", "mirrored"],
)
def test_affinities_that_no_camera_sees_are_no_model(model):
    query, candidate, partner = scene(42, model, wrong=0, noise=0.2)
    result = verify(query, candidate)
    assert result.putatives == 200
    assert result.inliers < 0.5 * len(partner)


@pytest.mark.parametrize(("perspective", "bends"), [(2.0, True), (8.0, False)])
def test_homographies_that_no_camera_sees_are_not_taken(perspective, bends):
    """At the far end, at depths of 3 and 9, lengths shrink by that much more in one direction than across."""
    source = np.random.default_rng(43).random((60, 2))
    source[0] = 1, 0.5
    truth = np.array([[1, 0, 0], [0, 1, 0], [perspective, 0, 1]])
    target = mapped(truth, source)
    near = source[:, 0] < 0.4
    model, inlier = truth.ravel()[:8].copy(), near.copy()
    count = bend(columns(source), columns(target), 0.05, model, inlier, near.sum())
    assert count == (60 if bends else near.sum())
    assert (inlier == (np.ones(60, np.bool_) if bends else near)).all()


def test_homography_through_exact_points():
    random = np.random.default_rng(23)
    source = random.random((60, 2))
    truth = np.array([[1.2, 0.1, -0.1], [0.1, 0.9, 0.1], [0.02, -0.03, 1]])
    model = np.array([1, 0, 0, 0, 1, 0, 0, 0.0])
    assert fit_homography(columns(source), columns(mapped(truth, source)), np.ones(60, np.bool_), model)
    # The pull on the perspective terms costs a little.
    assert mapped(np.append(model, 1).reshape(3, 3), source) == pytest.approx(mapped(truth, source), abs=1e-3)


def test_a_homography_of_points_in_a_line_stays_as_it_was_across_it():
    x = np.linspace(0.1, 0.9, 9)
    source = np.column_stack([x, 0.5 * x])
    before = np.array([0.9, -0.2, 0.1, 0.3, 1.2, 0.2, 0, 0])
    target = mapped(np.append(before, 1).reshape(3, 3), source)
    model = before.copy()
    assert fit_homography(columns(source), columns(target), np.ones(9, np.bool_), model)
    assert model == pytest.approx(before, abs=1e-6)


def test_homography_by_least_squares_weighted_by_depth():
    random = np.random.default_rng(25)
    source = random.random((50, 2)) * 20
    truth = np.array([[1.2, 0.1, -0.1], [0.1, 0.9, 0.1], [0.02, -0.01, 1]])
    target = mapped(truth, source) + random.normal(scale=0.3, size=source.shape)
    model = np.append(np.zeros(6), truth[2, :2])
    assert fit_homography(columns(source), columns(target), np.ones(50, np.bool_), model)
    depth = np.column_stack([source, np.ones(50)]) @ truth[2]
    rows, values = [], []
    for (x, y), (u, v), w in zip(source, target, depth, strict=True):
        rows += [
            np.array([x, y, 1, 0, 0, 0, -x * u, -y * u]) / w,
            np.array([0, 0, 0, x, y, 1, -x * v, -y * v]) / w,
        ]
        values += [u / w, v / w]
    expected = np.linalg.lstsq(np.array(rows), np.array(values))[0]
    assert model == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_count_inliers_by_hand():
    source = np.array([[0, 0], [1, 0], [0, 1], [-1, 1], [3, 3.0]])
    target = source * [2, 1] + [1, 0]
    target[1] += [0.06, 0.08]
    model = np.array([2, 0, 1, 0, 1, 0, 0, 0.0])
    inlier = np.ones(5, np.bool_)
    target[4] += 9
    assert count_inliers(model, columns(source), columns(target), 0.1001**2, inlier) == 4
    assert inlier.tolist() == [True, True, True, True, False]
    assert count_inliers(model, columns(source), columns(target), 0.0999**2, inlier) == 3
    assert inlier.tolist() == [True, False, True, True, False]


def test_what_lies_behind_the_camera_is_no_inlier():
    model = np.array([1, 0, 0, 0, 1, 0, -1, 0.0])
    source = np.array([[0.5, 0.5], [2, 1]])
    target = np.array([[1, 1], [-2, -1.0]])  # the second at depth -1
    inlier = np.zeros(2, np.bool_)
    assert count_inliers(model, columns(source), columns(target), 0.01, inlier) == 1
    assert inlier.tolist() == [True, False]


def test_tolerance_by_hand():
    assert tolerance(np.array([3, 0, 0, 0, 3, 0, 0, 0.0]), 0.01) == pytest.approx(0.03)
    assert tolerance(np.array([0, -2, 0, 8, 0, 0, 0, 0.0]), 0.01) == pytest.approx(0.04)
    assert tolerance(np.array([0.5, 0, 0, 0, 0.5, 0, 0, 0.0]), 0.01) == 0.01


def test_best_matches_are_the_most_similar():
    """Thirty wrong matches are more alike than thirty right ones."""
    random = np.random.default_rng(26)
    points = random.random((60, 2)) * 500
    images = points + 30
    images[:30] = random.random((30, 2)) * 500
    cosine = np.linspace(0.99, 0.9, 60)[:, None]
    order = random.permutation(60)
    query = features(points[order], np.eye(60, 120, dtype=np.float32)[order])
    candidate = features(
        images, np.hstack([cosine * np.eye(60), np.sqrt(1 - cosine**2) * np.eye(60)]).astype("f4")
    )
    # The first two that are right stand in places 30 and 31.
    found = {
        best: verify(query, candidate, BatchedVerifier(best_matches=best, threads=1)).inliers
        for best in (31, 32)
    }
    assert found[31] < 20
    assert found[32] >= 29


def test_signatures_tell_sets_of_matches_apart():
    sets = [[i in chosen for i in range(12)] for n in range(4) for chosen in combinations(range(12), n)]
    assert len({int(signature(np.array(inlier))) for inlier in sets}) == len(sets)
