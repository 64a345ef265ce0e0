from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector import payload
from connector.errors import CorruptPayloadError, InvalidInputError
from extractor.features import ImageFeatures, LocalFeatures


def two_features() -> ImageFeatures:
    return ImageFeatures(
        image_id="tower.jpg",
        size=(100, 50),
        global_descriptor=np.array([0.6, 0.8], np.float32),
        local=LocalFeatures(
            keypoints=np.array([[0, 50], [100, 20]], np.float32),
            scales=np.array([1, 2], np.float32),
            scores=np.array([0.5, 0.25], np.float32),
            descriptors=np.array([[1, 0, 0], [0, 0, -1]], np.float32),
        ),
        extractor="e",
    )


def test_layout_byte_by_byte() -> None:
    header = b"LBRF" + bytes([1, 1, 3, 0, 2, 0, 2, 0, 0, 0, 100, 0, 0, 0, 50, 0, 0, 0])
    arrays = bytes.fromhex(
        "cd38 663a"  # 0.6, 0.8 in half precision
        "0000 0080 ffff 3333"  # 0, 0.5, 1, 0.2 of 65535: 0, 32768 (32767.5 rounds to even), 65535, 13107
        "003c 0040"  # scales 1, 2
        "0038 0034"  # scores 0.5, 0.25
        "7f0000 000081"  # 127, -127
    )
    checksum = zlib.crc32(header + arrays).to_bytes(4, "little")
    assert payload.pack(two_features()) == header + checksum + arrays


@given(
    n=st.integers(0, 40),
    d=st.sampled_from([1, 40, 64, 128]),
    size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_features_survive_within_their_precision(n: int, d: int, size: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    descriptors = random.integers(-127, 128, (n, d), np.int8)
    vector = random.normal(size=20).astype(np.float32)
    local = LocalFeatures(
        keypoints=(random.random((n, 2)) * size).astype(np.float32),
        scales=random.uniform(0.1, 20, n).astype(np.float32),
        scores=random.uniform(0, 3000, n).astype(np.float32),
        descriptors=descriptors,
    )
    image = ImageFeatures("a", size, vector / np.linalg.norm(vector), local, "e")

    chunks = payload.split(payload.pack(image))
    back = payload.unpack(payload.join(chunks, owner="a"), image_id="a", extractor="e")

    assert back.size == size
    assert np.abs(back.global_descriptor - image.global_descriptor).max() < 1e-3
    assert np.linalg.norm(back.global_descriptor) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(back.local.descriptors, descriptors)
    np.testing.assert_allclose(back.local.scales, local.scales, rtol=2**-11)
    np.testing.assert_allclose(back.local.scores, local.scores, rtol=2**-11, atol=1e-7)
    step = max(size) / 65535
    np.testing.assert_allclose(back.local.keypoints, local.keypoints, atol=0.51 * step, rtol=1e-6)
    assert payload.pack(back) == payload.pack(image)  # reading and writing again changes nothing more


def test_arrays_can_be_written_to(photo) -> None:
    chunks = payload.split(payload.pack(photo("a")))
    back = payload.unpack(payload.join(chunks, owner="a"), image_id="a", extractor="e")
    arrays = (back.local.descriptors, back.local.keypoints, back.local.scales, back.global_descriptor)
    assert all(array.flags.writeable for array in arrays)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_altered_byte_goes_unseen(data: st.DataObject) -> None:
    packed = bytearray(payload.pack(two_features()))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptPayloadError, match=r"tower\.jpg"):
        payload.unpack(packed, image_id="tower.jpg", extractor="e")


@pytest.mark.parametrize("length", [0, 3, 25, 26, 40])
def test_cut_bytes_are_named(length: int) -> None:
    packed = payload.pack(two_features())
    assert length < len(packed)
    with pytest.raises(CorruptPayloadError, match=r"'tower\.jpg' is damaged .*index it again"):
        payload.unpack(packed[:length], image_id="tower.jpg", extractor="e")
    with pytest.raises(CorruptPayloadError, match="bytes instead of"):
        payload.unpack(packed + b"\0", image_id="tower.jpg", extractor="e")


def test_layout_of_a_later_version_is_no_damage() -> None:
    packed = bytearray(payload.pack(two_features()))
    packed[4] = 9
    with pytest.raises(CorruptPayloadError, match=r"layout 9\.1, this Landbridge reads 1\.1"):
        payload.unpack(packed, image_id="a", extractor="e")


@pytest.mark.parametrize(
    ("size", "chunks"), [(0, 1), (1, 1), (49_149, 1), (49_150, 2), (98_298, 2), (98_299, 3)]
)
def test_chunks_fill_a_varchar(size: int, chunks: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    texts = payload.split(data)
    assert len(texts) == chunks
    assert max(map(len, texts)) <= 65_535
    assert payload.join(texts, owner="x") == data


def test_text_that_is_not_base64_is_named() -> None:
    good = base64.b64encode(b"abc").decode()
    for bad in ("YWJ", "YW\nJj", "Y*Jj"):
        with pytest.raises(CorruptPayloadError, match="blob 'w' is damaged"):
            payload.join([good, bad], owner="blob 'w'")


def test_digest_tells_features_apart_and_knows_no_name(photo) -> None:
    one = payload.digest(payload.pack(photo("a", seed=1)))
    assert one == payload.digest(payload.pack(photo("b", seed=1)))
    assert one != payload.digest(payload.pack(photo("a", seed=2)))
    assert len(one) == 32


def test_a_photo_without_features(photo) -> None:
    blank = photo("blank", keypoints=0)
    back = payload.unpack(payload.pack(blank), image_id="blank", extractor="e")
    assert len(back.local) == 0
    assert back.local.dimension == 64


def moved(point: tuple[float, float], score: float = 1.0) -> ImageFeatures:
    one = np.ones(1, np.float32)
    local = LocalFeatures(np.array([point], np.float32), one, one * score, np.ones((1, 4), np.int8))
    return ImageFeatures("m", (200, 100), np.ones(1, np.float32), local, "e")


def test_keypoints_just_outside_come_onto_the_border() -> None:
    back = payload.unpack(payload.pack(moved((-1.5, 201.5))), image_id="m", extractor="e")
    np.testing.assert_allclose(back.local.keypoints, [[0, 200]])


def test_keypoints_elsewhere_are_refused() -> None:
    for point in ((-3.0, 0.0), (0.0, 203.0)):
        with pytest.raises(InvalidInputError, match="m: keypoints lie outside the photo of 200x100"):
            payload.pack(moved(point))


def test_scores_beyond_half_precision_stay_finite() -> None:
    back = payload.unpack(payload.pack(moved((0, 0), score=1e6)), image_id="m", extractor="e")
    assert back.local.scores[0] == 65504


def test_a_photo_of_no_size_is_refused(photo) -> None:
    with pytest.raises(InvalidInputError, match="0x5"):
        payload.pack(photo("a", keypoints=0, size=(0, 5)))
