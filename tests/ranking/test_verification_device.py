"""The batched verification in torch, on the CPU, against the compiled one."""

from dataclasses import replace

import numpy as np
import pytest

from extractor.features import LocalFeatures
from ranking.verification import BatchedVerifier, create_verifier
from ranking.verification.batched import device as on_device
from ranking.verification.batched.device import DevicePhotos, verify_pairs
from ranking.verification.batched.homography import bend

torch = pytest.importorskip("torch", reason="torch is not installed")

OBLIQUE = np.array([[1.3, 0.1, -40], [0.15, 1.1, -30], [9e-4, 1e-4, 1]])
SHEARED = np.array([[1.1, 0.25, -30], [-0.1, 0.8, 50], [0, 0, 1]])
SHRUNK = np.array([[0.5, 0, 100], [0, 0.5, 80], [0, 0, 1]])
VARIANTS = [
    {},
    {"model": "affine"},
    {"model": "similarity"},
    {"ratio": 0.9},
    {"best_matches": 9, "threshold": 0.02, "minimum_similarity": 0.6},
    {"minimum_similarity": -0.9, "ratio": 0.99},
]


def features(points, descriptors):
    n = len(points)
    return LocalFeatures(
        np.asarray(points, np.float32), np.ones(n, np.float32), np.ones(n, np.float32), descriptors
    )


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def views(seed, count=150):
    """A photo, views with ever more wrong matches, one with equal descriptors, one unrelated, a line."""
    random = np.random.default_rng(seed)
    points = random.random((count, 2)) * [640, 480]
    # Learned descriptors of one photo are alike: some neighbours are near, and ties happen.
    descriptors = unit(random.normal(size=(count, 32)) + random.normal(size=32))
    photos = [features(points, descriptors)]
    for model, wrong in ((OBLIQUE, 0.0), (SHEARED, 0.3), (SHRUNK, 0.6), (OBLIQUE, 0.8)):
        ahead = np.column_stack([points, np.ones(count)]) @ model.T
        images = ahead[:, :2] / ahead[:, 2:] + random.normal(scale=0.7, size=points.shape)
        lost = random.random(count) < wrong
        images[lost] = random.random((lost.sum(), 2)) * [640, 480]
        kept = random.permutation(count)[: int(count * random.uniform(0.6, 1))]
        noisy = unit(descriptors + random.normal(scale=0.05, size=descriptors.shape))
        photos.append(features(images[kept], noisy[kept]))
    photos.append(features(points, np.repeat(descriptors[::5], 5, axis=0)))
    photos.append(features(random.random((90, 2)) * 300, unit(random.normal(size=(90, 32)))))
    along = random.uniform(0, 600, count)
    photos.append(features(np.column_stack([along, 0.2 * along + 50]), descriptors))
    return [photo.quantised() for photo in photos]


def assert_same(found, expected):
    assert found.putatives == expected.putatives
    assert found.matches.dtype == np.int32
    assert found.matches.tolist() == expected.matches.tolist()
    assert found.significance == pytest.approx(expected.significance, rel=1e-6, abs=1e-6)
    assert found.model == pytest.approx(expected.model, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_results_as_the_compiled_verifier(options, seed):
    photos = views(seed)
    compiled = create_verifier("batched", threads=1, **options)
    there = create_verifier("batched", device="cpu", **options)
    inliers = []
    for query in photos:
        for expected, found in zip(compiled.verify(query, photos), there.verify(query, photos), strict=True):
            assert_same(found, expected)
            inliers.append(expected.inliers)
    assert sum(count > 30 for count in inliers) > 8
    assert 0 in inliers


def test_edge_cases_as_the_compiled_verifier():
    photo, other = views(3)[:2]
    none = LocalFeatures.empty(32)
    stacked = replace(photo, keypoints=np.full_like(photo.keypoints, 7))
    blank = replace(photo, descriptors=np.zeros_like(photo.descriptors))
    few = [
        LocalFeatures(photo.keypoints[:n], photo.scales[:n], photo.scores[:n], photo.descriptors[:n])
        for n in (1, 2, 3, 4, 5)
    ]
    candidates = [none, other, stacked, blank, *few]
    there, compiled = BatchedVerifier(device="cpu"), BatchedVerifier(threads=1)
    for query in (photo, none, stacked, blank, *few):
        for expected, found in zip(
            compiled.verify(query, candidates), there.verify(query, candidates), strict=True
        ):
            assert_same(found, expected)
    assert there.verify(photo, []) == []
    assert there.verify(none, [none])[0].putatives == 0
    with pytest.raises(ValueError, match="differ in length"):
        there.verify(photo, [LocalFeatures.empty(64)])


def test_photos_are_as_long_as_they_are():
    """Opposite descriptors are more alike than nothing, in a photo that is shorter than another."""
    random = np.random.default_rng(7)
    photo, longer = (
        features(random.random((n, 2)) * 300, unit(random.random((n, 32)))).quantised() for n in (9, 20)
    )
    opposite = replace(photo, descriptors=-photo.descriptors)
    there = BatchedVerifier(minimum_similarity=-1.1, device="cpu")
    compiled = BatchedVerifier(minimum_similarity=-1.1, threads=1)
    for query in (photo, longer):
        found, expected = (verifier.verify(query, [opposite, longer])[0] for verifier in (there, compiled))
        assert_same(found, expected)
        assert expected.putatives > 0


@pytest.mark.parametrize("perspective", [2.0, 8.0])
def test_homographies_are_taken_as_by_the_compiled_verifier(perspective):
    """At depths of 3 and 9, the latter squeezed more than any view is."""
    source = np.random.default_rng(6).random((60, 2))
    truth = np.array([1, 0, 0, 0, 1, 0, perspective, 0])
    target = source / (perspective * source[:, :1] + 1)
    near = source[:, 0] < 0.4
    model, inlier = truth.copy(), near.copy()
    expected = bend(
        np.asfortranarray(source), np.asfortranarray(target), 0.05, model, inlier, int(near.sum())
    )
    scene = on_device._Scene(*(torch.from_numpy(x)[None] for x in (source, target, np.ones(60, bool))), 0.05)
    models, count, _ = on_device._bend(
        scene, torch.from_numpy(truth)[None, None], torch.tensor([[int(near.sum())]])
    )
    assert count.item() == expected == (60 if perspective == 2 else near.sum())
    assert models[0, 0].numpy() == pytest.approx(model)


def test_float32_descriptors_are_matched_as_int8():
    photos = views(4)
    whole = [
        replace(photo, descriptors=(photo.descriptors / np.float32(127)).astype(np.float32))
        for photo in photos
    ]
    there = BatchedVerifier(device="cpu")
    for one, other in zip(there.verify(photos[0], photos), there.verify(whole[0], whole), strict=True):
        assert_same(one, other)


def test_pairs_do_not_depend_on_their_company(monkeypatch):
    photos = views(5)
    pairs = np.array([(i, j) for i in range(len(photos)) for j in range(len(photos))])
    settings = BatchedVerifier()
    there = DevicePhotos(photos, "cpu")
    together = verify_pairs(there, pairs, settings)
    assert len(together) == len(pairs)
    # One pair after another, in memory for no more.
    monkeypatch.setattr(on_device, "_budget", lambda device: 1)
    alone = verify_pairs(there, pairs[::-1], settings)
    for place in range(len(pairs)):
        assert_same(alone[len(pairs) - 1 - place], together[place])
    assert together.starts[-1] == len(together.matches)
    nothing = verify_pairs(there, pairs[:0], settings)
    assert (len(nothing), nothing.starts.tolist()) == (0, [0])


def test_results_of_both_may_stand_in_one_store():
    assert BatchedVerifier(device="cpu").fingerprint == BatchedVerifier().fingerprint
