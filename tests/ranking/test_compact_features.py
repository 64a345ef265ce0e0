import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.features import LocalFeatures
from ranking.compact_features import CompactCodec, CompactFeaturesError, _best_levels
from ranking.verification import create_verifier


def features(random, n, basis, spread=1000):
    """Unit vectors near the space that the rows of `basis` span, as learned descriptors are."""
    descriptors = random.normal(size=(n, len(basis))) @ basis + random.normal(scale=0.02, size=(n, 64))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    points = (random.random((n, 2)) * [spread, spread * 0.7] + [40, -20]).astype(np.float32)
    scores = np.sort(random.random(n).astype(np.float32))[::-1].copy()
    return LocalFeatures(points, np.full(n, 2, np.float32), scores, descriptors.astype(np.float32))


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(1)
    basis = np.linalg.qr(random.normal(size=(64, 24)))[0].T * np.linspace(1, 0.2, 24)[:, None]
    photos = [features(random, 300, basis) for _ in range(6)]
    return photos, CompactCodec.fit(np.concatenate([photo.descriptors for photo in photos]))


def unit(codes):
    return codes / np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)


def test_a_feature_takes_19_bytes(world):
    photos, codec = world
    assert codec.bytes_per_feature == 19
    assert len(codec.encode(photos[0])) == 16 + 300 * 19
    assert len(CompactCodec.fit(photos[0].descriptors, 24).encode(photos[0])) == 16 + 300 * 15
    # A million photos of 1000 features in 20 GB.
    assert (16 + 1000 * 19) * 1e6 < 20e9


def test_similarities_and_places_survive(world):
    photos, codec = world
    for photo in photos:
        decoded = codec.decode(codec.encode(photo))
        assert decoded.descriptors.dtype == np.int8
        assert decoded.descriptors.shape == (300, 32)
        extent = np.ptp(photo.keypoints, axis=0).max()
        assert np.abs(decoded.keypoints - photo.keypoints).max() <= 0.5001 * extent / 4095
        assert (decoded.scales == 1).all()
        assert (np.diff(decoded.scores) < 0).all()
        assert np.linalg.norm(decoded.descriptors.astype(float), axis=1) == pytest.approx(127, abs=3)
        error = (
            unit(decoded.descriptors) @ unit(decoded.descriptors).T - photo.descriptors @ photo.descriptors.T
        )
        assert error.std() < 0.04


def test_int8_descriptors_are_coded_as_well(world):
    photos, codec = world
    whole, steps = (codec.decode(codec.encode(photo)) for photo in (photos[0], photos[0].quantised()))
    assert (unit(whole.descriptors) * unit(steps.descriptors)).sum(1).min() > 0.99


def test_verification_finds_the_same(world):
    """Shifted photos of the same thing, and of different things."""
    photos, codec = world
    random = np.random.default_rng(2)
    moved = [
        LocalFeatures(
            photo.keypoints * np.float32(0.8) + random.normal(scale=2, size=(300, 2)).astype(np.float32),
            photo.scales,
            photo.scores,
            photo.descriptors,
        )
        for photo in photos
    ]
    verifier = create_verifier(threads=1)
    whole = verifier.verify(photos[0], moved)
    coded = verifier.verify(
        codec.decode(codec.encode(photos[0])), [codec.decode(codec.encode(photo)) for photo in moved]
    )
    assert whole[0].inliers > 250
    assert coded[0].inliers == pytest.approx(whole[0].inliers, rel=0.05)
    assert max(result.significance for result in coded[1:]) < 5


def test_levels_are_those_of_least_error():
    """Known: an even grid for a uniform distribution, and an error of 0.0095 for a normal one (Max 1960)."""
    even = _best_levels(np.linspace(0, 1, 16_001))
    assert even == pytest.approx((np.arange(16) + 0.5) / 16, abs=1e-3)
    normal = np.random.default_rng(3).normal(size=100_000)
    levels = _best_levels(normal)
    error = np.abs(normal[:, None] - levels).min(1)
    assert (error**2).mean() == pytest.approx(0.0095, rel=0.03)
    assert _best_levels(np.repeat(np.arange(16.0), 5)) == pytest.approx(np.arange(16))
    assert np.isfinite(_best_levels(np.zeros(40))).all()


def test_the_same_sample_gives_the_same_codec_and_another_another(world):
    photos, codec = world
    sample = np.concatenate([photo.descriptors for photo in photos])
    again = CompactCodec.fit(sample)
    assert again.fingerprint == codec.fingerprint
    back = CompactCodec.from_bytes(codec.to_bytes())
    assert back.fingerprint == codec.fingerprint
    assert back.encode(photos[0]) == codec.encode(photos[0])
    others = {CompactCodec.fit(sample[1:]).fingerprint, CompactCodec.fit(sample, 24).fingerprint}
    assert len(others | {codec.fingerprint}) == 3
    assert codec.fingerprint.startswith("compact-1:")


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**12 - 1), st.integers(0, 2**12 - 1), st.lists(st.integers(0, 15), min_size=4, max_size=4)
)
def test_every_bit_comes_back(column, row, codes):
    """Levels 0 to 15 on every axis, all but the last of which are the features' own."""
    levels = np.tile(np.arange(16, dtype=np.float32), (4, 1))
    codec = CompactCodec(np.eye(4, dtype=np.float32), levels)
    points = np.array([[0, 0], [4095, 4095], [column, row]], np.float32)
    payload = bytearray(
        codec.encode(
            LocalFeatures(points, np.ones(3, np.float32), np.ones(3, np.float32), np.ones((3, 4), np.float32))
        )
    )
    assert len(payload) == 16 + 3 * 5
    payload[-2:] = bytes([codes[0] | codes[1] << 4, codes[2] | codes[3] << 4])
    decoded = codec.decode(bytes(payload))
    assert (decoded.keypoints == points).all()
    expected = np.array(codes) * 127 / max(np.linalg.norm(codes), 1e-6)
    assert decoded.descriptors[2] == pytest.approx(expected, abs=0.51)


def test_photos_without_features_and_features_in_one_place(world):
    _, codec = world
    assert len(codec.decode(codec.encode(LocalFeatures.empty(64)))) == 0
    one = LocalFeatures(
        np.full((3, 2), 77.5, np.float32),
        np.ones(3, np.float32),
        np.ones(3, np.float32),
        np.zeros((3, 64), np.float32),
    )
    assert codec.decode(codec.encode(one)).keypoints == pytest.approx(one.keypoints, abs=1e-5)


def test_wrong_input_is_named(world):
    photos, codec = world
    payload = codec.encode(photos[0])
    for damaged in (payload[:-1], payload + b"x", payload[:9], b""):
        with pytest.raises(CompactFeaturesError, match=f"{len(damaged)} bytes"):
            codec.decode(damaged)
    with pytest.raises(ValueError, match="for descriptors of length 64, not 128"):
        codec.encode(LocalFeatures.empty(128))
    with pytest.raises(ValueError, match="even and at most 64, got 66"):
        CompactCodec.fit(photos[0].descriptors, 66)
    with pytest.raises(ValueError, match="even and at most 64, got 3"):
        CompactCodec.fit(photos[0].descriptors, 3)
    with pytest.raises(ValueError, match="63 descriptors are too few to learn from: give at least 64"):
        CompactCodec.fit(photos[0].descriptors[:63])
    with pytest.raises(ValueError, match="cannot have levels"):
        CompactCodec(np.eye(4, dtype=np.float32), np.zeros((3, 16), np.float32))
