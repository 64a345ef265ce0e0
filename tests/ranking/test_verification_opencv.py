"""The backends by name, and what every one of them gives for any input."""

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest

from extractor.features import LocalFeatures
from ranking.verification import BACKENDS, BatchedVerifier, create_verifier

SHEARED = np.array([[1.1, 0.25, -30], [-0.1, 0.8, 50], [0, 0, 1]])
OBLIQUE = np.array([[1.3, 0.1, -40], [0.15, 1.1, -30], [9e-4, 1e-4, 1]])
MODELS = {"batched": ("similarity", "affine", "homography"), "opencv": ("affine", "homography")}
VARIANTS = [
    *((name, {"model": model}) for name, models in MODELS.items() for model in models),
    ("batched", {"ratio": 0.9}),
    pytest.param(
        "reference",
        {},
        marks=pytest.mark.skipif(
            importlib.util.find_spec("skimage") is None,
            reason="scikit-image is not installed: pip install 'landbridge[reference]'",
        ),
    ),
]
every_backend = pytest.mark.parametrize(("name", "options"), VARIANTS)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def features(points, descriptors):
    n = len(points)
    return LocalFeatures(
        np.asarray(points, np.float32), np.ones(n, np.float32), np.ones(n, np.float32), descriptors
    )


def mapped(model, points):
    ahead = np.column_stack([points, np.ones(len(points))]) @ np.asarray(model).T
    return ahead[:, :2] / ahead[:, 2:]


def scene(seed, model, true=120, wrong=40, noise=0.5):
    """Feature i of the query is feature i of the candidate; those from `true` on are at unlike places."""
    random = np.random.default_rng(seed)
    points = random.random((true + wrong, 2)) * [640, 480]
    images = mapped(model, points) + random.normal(scale=noise, size=points.shape)
    images[true:] = random.uniform(images.min(0), images.max(0), (wrong, 2))
    descriptors = unit(random.normal(size=(true + wrong, 64)))
    like = unit(descriptors + random.normal(scale=0.03, size=descriptors.shape))
    return features(points, descriptors), features(images, like)


def verify(verifier, query, candidate):
    (result,) = verifier.verify(query, [candidate])
    assert result.matches.dtype == np.int32
    assert result.matches.shape == (result.inliers, 2)
    assert result.model.shape == (3, 3)
    assert np.isfinite(result.model).all()
    assert math.isfinite(result.significance)
    if not result.inliers:
        assert (result.model == np.eye(3)).all()
        assert result.significance == 0
    return result


@every_backend
def test_finds_the_matches_and_the_model(name, options):
    truth = SHEARED if options.get("model") != "similarity" else np.diag([0.7, 0.7, 1])
    query, candidate = scene(1, truth)
    result = verify(create_verifier(name, **options), query, candidate)
    assert result.putatives == 160
    ours, theirs = result.matches.T
    assert (ours == theirs).all()
    assert set(range(120)) <= set(ours.tolist())
    assert len(ours) <= 126
    assert mapped(result.model, query.keypoints[:120]) == pytest.approx(
        mapped(truth, query.keypoints[:120]), abs=2.5
    )
    assert result.significance > 50


def bend(model):
    """How far a model is from an affinity, and an affinity from a similarity."""
    model = model / model[2, 2]
    return np.abs(model[2, :2]).max(), abs(model[0, 0] - model[1, 1]) + abs(model[0, 1] + model[1, 0])


@pytest.mark.parametrize("name", MODELS)
def test_models_have_their_degrees_of_freedom(name):
    query, candidate = scene(2, OBLIQUE, wrong=0)
    found = {model: verify(create_verifier(name, model=model), query, candidate) for model in MODELS[name]}
    assert bend(found["homography"].model)[0] > 1e-4
    assert bend(found["affine"].model)[0] < 1e-12
    assert bend(found["affine"].model)[1] > 0.05
    if name == "batched":
        assert bend(found["similarity"].model) == pytest.approx((0, 0), abs=1e-9)
    inliers = [found[model].inliers for model in MODELS[name]]
    assert inliers == sorted(inliers)
    assert inliers[-1] == 120


def test_similarity_by_least_squares():
    # Three corners of a square, the fourth is 2 pixels off: the centroid moves by 0.5, hand-solved below.
    square = np.array([[0, 0], [400, 0], [400, 400], [0, 400.0]])
    images = square.copy()
    images[2] += [2, 2]
    descriptors = np.eye(4, dtype=np.float32)
    verifier = create_verifier("batched", model="similarity", threads=1)
    result = verify(verifier, features(square, descriptors), features(images, descriptors))
    assert result.inliers == 4
    # scale = sum of (p - mean)(q - mean) over sum of |p - mean|^2 = (320000 + 2 * 400) / 320000
    assert result.model == pytest.approx(np.array([[1.0025, 0, 0], [0, 1.0025, 0], [0, 0, 1]]), abs=1e-6)


def test_ratio_drops_matches_with_a_near_second():
    descriptors = np.eye(8, 16, dtype=np.float32)
    near = np.zeros((9, 16), np.float32)
    near[:8] = descriptors
    near[8, [0, 8]] = 0.8, 0.6  # cosine 0.8 with the first: a squared distance of 0.4 against 0
    theirs = near.copy()
    theirs[0, [0, 9]] = 0.9, np.sqrt(1 - 0.81)  # the first's best: a squared distance of 0.2
    random = np.random.default_rng(3)
    ours = features(random.random((8, 2)), descriptors)
    candidate = features(random.random((9, 2)), theirs)
    for dtype in (np.float32, np.int8):
        one, other = (ours, candidate) if dtype == np.float32 else (ours.quantised(), candidate.quantised())
        putatives = [
            verify(BatchedVerifier(ratio=ratio, threads=1), one, other).putatives
            for ratio in (None, 0.75, 0.68)  # the root of 0.2 / 0.4 is 0.707
        ]
        assert putatives == [8, 8, 7]


@every_backend
def test_fewer_matches_than_a_model_needs(name, options):
    verifier = create_verifier(name, **options)
    random = np.random.default_rng(4)
    for n in range(3):
        descriptors = unit(random.normal(size=(n, 64))) if n else np.zeros((0, 64), np.float32)
        one = features(random.random((n, 2)) * 300, descriptors)
        result = verify(verifier, one, one)
        assert (result.putatives, result.inliers) == (n, 0)
    many, _ = scene(4, SHEARED)
    none = LocalFeatures.empty(64)
    assert [verify(verifier, *pair).putatives for pair in ((many, none), (none, many))] == [0, 0]
    assert verifier.verify(many, []) == []


@every_backend
def test_points_in_one_place_give_no_model(name, options):
    verifier = create_verifier(name, **options)
    query, candidate = scene(5, SHEARED)
    stacked = replace(candidate, keypoints=np.full_like(candidate.keypoints, 77.0))
    assert verify(verifier, query, stacked).significance < 10
    assert verify(verifier, stacked, stacked).putatives == 160


@every_backend
def test_points_in_a_line_are_less_evidence_than_points_all_over(name, options):
    """A hundred matches a fraction of a pixel off, in a photo of 640 x 480 pixels with other features."""
    random = np.random.default_rng(6)
    verifier = create_verifier(name, **options)
    descriptors = unit(random.normal(size=(200, 64)))
    others = random.random((100, 2)) * [640, 480]
    line = 100 + np.outer(random.uniform(0, 400, 100), (1, 0.5))
    significance = []
    for points in (line, random.random((100, 2)) * [640, 480]):
        images = points + 5 + random.normal(scale=0.3, size=points.shape)
        query = features(np.vstack([points, others]), descriptors)
        candidate = features(
            np.vstack([images, others[::-1]]),
            np.vstack([descriptors[:100], np.roll(descriptors[100:], 1, 1)]),
        )
        result = verify(verifier, query, candidate)
        assert result.putatives >= 100
        significance.append(result.significance)
    assert significance[0] < 0.7 * significance[1]


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_zero_descriptors_match_nothing(name, options, dtype):
    query, candidate = scene(8, SHEARED)
    blank = replace(candidate, descriptors=np.zeros((160, 64), dtype))
    verifier = create_verifier(name, **options)
    for one, other in ((query, blank), (blank, query), (blank, blank)):
        assert verify(verifier, one, other).putatives == 0


@every_backend
def test_descriptors_of_different_length(name, options):
    query, candidate = scene(9, SHEARED)
    short = replace(candidate, descriptors=np.ascontiguousarray(candidate.descriptors[:, :32]))
    with pytest.raises(ValueError, match="64 in the query, 32 in a candidate"):
        create_verifier(name, **options).verify(query, [candidate, short])


@every_backend
def test_int8_gives_nearly_the_same(name, options):
    query, candidate = scene(10, SHEARED if "model" in options else np.eye(3))
    verifier = create_verifier(name, **options)
    whole = verify(verifier, query, candidate)
    steps = verify(verifier, query.quantised(), candidate.quantised())
    assert steps.inliers == pytest.approx(whole.inliers, abs=2)


@every_backend
def test_the_same_again_and_in_company(name, options):
    query, first = scene(11, SHEARED)
    _, second = scene(12, OBLIQUE)
    candidates = [second, first, LocalFeatures.empty(64), query]
    verifier = create_verifier(name, **options)
    together = verifier.verify(query, candidates)
    for result, candidate in zip(together, candidates, strict=True):
        alone = verify(create_verifier(name, **options), query, candidate)
        assert (alone.matches == result.matches).all()
        assert (alone.model == result.model).all()
        assert alone.significance == result.significance


@pytest.mark.parametrize("name", ["opencv"])
def test_the_seed_draws_other_samples(name):
    query, candidate = scene(13, OBLIQUE, true=40, wrong=120, noise=3)
    models = {verify(create_verifier(name, seed=seed), query, candidate).model.tobytes() for seed in range(8)}
    assert len(models) > 1


def test_names_and_options_that_do_not_exist():
    with pytest.raises(ValueError, match="no verification backend 'magic'; there are batched, opencv, refer"):
        create_verifier("magic")
    with pytest.raises(ValueError, match="opencv has no option ratio; it has minimum_similarity, threshold"):
        create_verifier("opencv", ratio=0.8)
    with pytest.raises(ValueError, match="no model 'affinity'; there are similarity, affine, homography"):
        create_verifier("batched", model="affinity")
    with pytest.raises(ValueError, match="no model 'similarity'; there are affine, homography"):
        create_verifier("opencv", model="similarity")
    with pytest.raises(ValueError, match="ratio must lie in"):
        create_verifier(ratio=1.5)


def test_every_variant_has_a_fingerprint_of_its_own():
    variants = [
        create_verifier("batched", model=model, ratio=ratio)
        for model in MODELS["batched"]
        for ratio in (None, 0.8, 0.9)
    ]
    variants += [create_verifier("opencv", **options) for options in ({}, {"model": "affine"}, {"seed": 1})]
    assert len({verifier.fingerprint for verifier in variants}) == len(variants)
    assert create_verifier() == BatchedVerifier()
    assert BACKENDS == ("batched", "opencv", "reference")
