"""Feature files of every kind: what is written is read again, and what is wrong is said."""

import subprocess
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from extractor.features import LocalFeatures
from extractor.files import FeatureFileError, StoredFeatures, read_features, write_features


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def photo(name, count=3, dimension=4, seed=0, **parts):
    rng = np.random.default_rng([seed, *name.encode()])
    local = LocalFeatures(
        rng.uniform(0, 800, (count, 2)).astype(np.float32),
        rng.uniform(1, 4, count).astype(np.float32),
        np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1].copy(),
        unit(rng.normal(size=(count, dimension))),
    )
    has = {"local": local, "global_descriptor": unit(rng.normal(size=5)), "size": (800, 600)} | parts
    return StoredFeatures(name, **has)


def assert_same(found, wanted, sizes=True):
    assert found.image_id == wanted.image_id
    assert (found.local is None) == (wanted.local is None)
    if found.local is not None:
        np.testing.assert_array_equal(found.local.keypoints, wanted.local.keypoints)
        np.testing.assert_array_equal(found.local.scales, wanted.local.scales)
        np.testing.assert_array_equal(found.local.scores, wanted.local.scores)
        assert found.local.descriptors.dtype == wanted.local.descriptors.dtype
        np.testing.assert_array_equal(found.local.descriptors, wanted.local.descriptors)
    assert (found.global_descriptor is None) == (wanted.global_descriptor is None)
    if found.global_descriptor is not None:
        np.testing.assert_array_equal(found.global_descriptor, wanted.global_descriptor)
    if sizes:
        assert found.size == wanted.size


NAMES = ("all_souls_000001", "db/café .2/b", "a.b")


@pytest.mark.parametrize(
    ("target", "kind"), [("f.h5", None), ("f.npz", None), ("f", "delg"), ("f", "npz")], ids=str
)
def test_round_trip(tmp_path, target, kind):
    photos = {name: photo(name, count) for name, count in zip(NAMES, (3, 1, 7), strict=True)}
    assert write_features(tmp_path / target, photos.values(), kind) == 3
    found = read_features(tmp_path / target)
    assert list(found) == sorted(NAMES)
    assert len(found) == 3
    for name in NAMES:
        assert_same(found[name], photos[name], sizes=kind != "delg")
    assert dict(found).keys() == set(NAMES)
    assert not list(tmp_path.rglob("*.part"))


def test_local_or_global_features_alone(tmp_path):
    for target, kind in (("a.h5", None), ("a.npz", None), ("a", "npz"), ("a", "delg")):
        for missing in ("local", "global_descriptor"):
            made = photo("x", **{missing: None})
            path = tmp_path / f"{missing} {kind}" / target
            write_features(path, [made], kind)
            assert_same(read_features(path)["x"], made, sizes=kind != "delg")


@pytest.mark.parametrize(("target", "kind"), [("a.npz", None), ("a", "npz")])
def test_int8_descriptors_stay_int8_in_npz(tmp_path, target, kind):
    made = photo("x")
    made = photo("x", local=made.local.quantised())
    write_features(tmp_path / target, [made], kind)
    assert_same(read_features(tmp_path / target)["x"], made)


def test_int8_descriptors_are_unit_vectors_in_h5(tmp_path):
    made = photo("x")
    write_features(tmp_path / "a.h5", [photo("x", local=made.local.quantised())])
    found = read_features(tmp_path / "a.h5")["x"].local.descriptors
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, made.local.descriptors, atol=0.01)


def test_h5_as_hloc_writes_it(tmp_path):
    """Columns of descriptors, float16, names with slashes and suffixes, global features in another file."""
    descriptors = np.array([[3, 0], [4, 2]], np.float16)  # [D, N]
    with h5py.File(tmp_path / "local.h5", "w", libver="latest") as file:
        group = file.create_group("db/day/1.JPG")
        group.create_dataset("keypoints", data=np.array([[1, 2], [3, 4]], np.float16))
        group["keypoints"].attrs["uncertainty"] = 1.0
        group.create_dataset("scores", data=np.array([0.25, 0.5], np.float16))
        group.create_dataset("descriptors", data=descriptors)
        group.create_dataset("image_size", data=np.array([640, 480]))
        file.create_group("empty.jpg").create_dataset("keypoints", data=np.zeros((0, 2), np.float16))
        file["empty.jpg"].create_dataset("descriptors", data=np.zeros((2, 0), np.float16))
    with h5py.File(tmp_path / "global.h5", "w") as file:
        file["db/day/1.JPG/global_descriptor"] = np.array([0, 3, 4], np.float16)
        file["db/day/1.JPG/image_size"] = np.array([640, 480])
    found = read_features(tmp_path)
    assert list(found) == ["db/day/1", "empty"]
    whole = found["db/day/1"]
    assert whole.size == (640, 480)
    # The stronger of the two comes first.
    assert whole.local.keypoints.tolist() == [[3, 4], [1, 2]]
    assert whole.local.scores.tolist() == [0.5, 0.25]
    assert whole.local.scales.tolist() == [1, 1]
    np.testing.assert_allclose(whole.local.descriptors, [[0, 1], [0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(whole.global_descriptor, [0, 0.6, 0.8], atol=1e-6)
    assert found["empty"].local.descriptors.shape == (0, 2)
    assert found["empty"].global_descriptor is None


def test_descriptors_that_are_not_transposed_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/keypoints"], file["x/descriptors"] = np.zeros((3, 2)), np.ones((3, 4))
    with pytest.raises(FeatureFileError, match=r"a\.h5, x: .*\[3, 4\].*hloc stores \[D, N\]: transpose"):
        read_features(tmp_path / "a.h5")["x"]


def test_delg_files_of_a_photo_join_up_by_stem(tmp_path):
    wanted = photo("one")
    write_features(tmp_path / "here", [photo("one", global_descriptor=None)], "delg")
    write_features(tmp_path / "there", [photo("one", local=None)], "delg")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["one.delg_local"]
    assert_same(read_features(tmp_path / "here", tmp_path / "there")["one"], wanted, sizes=False)
    assert_same(
        read_features(tmp_path / "here" / "one.delg_local")["one"],
        photo("one", global_descriptor=None),
        False,
    )


def test_a_single_file_of_one_photo_and_suffixes_of_photos(tmp_path):
    write_features(tmp_path, [photo("sub/a.jpg")], "delf")
    assert list(read_features(tmp_path)) == ["sub/a"]
    assert list(read_features(tmp_path / "sub" / "a.jpg.delf")) == ["a"]


def test_two_files_with_the_same_of_a_photo_are_an_error(tmp_path):
    write_features(tmp_path, [photo("a")], "npz")
    write_features(tmp_path, [photo("a")], "delf")
    with pytest.raises(FeatureFileError, match=r"a\.npz, a: local features are in .*a\.delf too"):
        read_features(tmp_path)["a"]


def test_what_is_wrong_names_the_file_that_it_is_in(tmp_path):
    write_features(tmp_path, [photo("a", global_descriptor=None)], "delg")
    (tmp_path / "a.delg_global").write_bytes(b"")
    with pytest.raises(FeatureFileError, match=r"a\.delg_global, a: global_descriptor is empty"):
        read_features(tmp_path)["a"]


def test_two_names_that_become_one_are_an_error(tmp_path):
    write_features(tmp_path / "f.npz", [photo("a.jpg"), photo("a.png")])
    with pytest.raises(FeatureFileError, match=r"a\.jpg and a\.png would both be called a"):
        read_features(tmp_path / "f.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"descriptors": None}, "keypoints, but no descriptors"),
        ({"keypoints": None, "scores": np.ones(3)}, "scores, descriptors, but no keypoints"),
        ({"keypoints": np.zeros((3, 3)), "descriptors": np.ones((3, 4))}, r"shape \[N, 2\], got \(3, 3\)"),
        ({"keypoints": np.zeros((3, 2)), "descriptors": np.ones((2, 4))}, r"shape \[3, d\], got \(2, 4\)"),
        ({"keypoints": np.zeros((3, 2)), "descriptors": np.ones(3)}, r"shape \[3, d\], got \(3,\)"),
        ({"scores": np.ones(2)}, r"scores must have shape \[3\]"),
        ({"scales": np.ones(4)}, r"must have shape \[3\]"),
        ({"descriptors": np.full((3, 4), np.nan)}, "descriptors hold NaN"),
        ({"descriptors": np.full((3, 4), 1e300)}, "descriptors hold NaN or infinite"),
        ({"keypoints": np.full((3, 2), np.inf)}, "keypoints hold NaN or infinite"),
        ({"descriptors": np.full((3, 4), "a")}, "descriptors must be numbers, got <U1"),
        ({"keypoints": np.array(1.0)}, "keypoints"),
        ({"descriptors": np.ones((3, 64), np.int8)}, r"in int8 must be round\(127 \* unit vector\)"),
        ({"global_descriptor": np.zeros(4)}, "empty or all zero"),
        ({"global_descriptor": np.zeros(0)}, "empty or all zero"),
        ({"global_descriptor": np.ones((2, 4))}, r"one vector \[D\], it has shape \[2, 4\]"),
        ({"global_descriptor": np.array([1, np.nan])}, "NaN"),
        ({"size": np.array([640, 0])}, "width and height"),
        ({"size": np.array([640])}, "width and height"),
    ],
)
def test_what_is_wrong_in_a_photo_is_said(tmp_path, arrays, message):
    usual = {"keypoints": np.zeros((3, 2)), "descriptors": np.ones((3, 4))} | arrays
    np.savez(tmp_path / "a.npz", **{name: array for name, array in usual.items() if array is not None})
    with pytest.raises(FeatureFileError, match=rf"a\.npz, a: .*{message}"):
        read_features(tmp_path / "a.npz")["a"]


def test_all_zero_descriptors_stay_zero_and_others_get_unit_norm(tmp_path):
    np.savez(
        tmp_path / "a.npz", keypoints=np.zeros((2, 2)), descriptors=np.array([[0, 0], [30, 40]], np.uint8)
    )
    assert read_features(tmp_path)["a"].local.descriptors.tolist() == [
        [0, 0],
        [np.float32(0.6), np.float32(0.8)],
    ]


def test_descriptors_near_unit_norm_are_scaled_too(tmp_path):
    np.savez(
        tmp_path / "a.npz", keypoints=np.zeros((1, 2)), descriptors=[[0.6, 0.9]], global_descriptor=[0.6, 0.9]
    )
    found = read_features(tmp_path)["a"]
    assert np.linalg.norm(found.local.descriptors) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(found.global_descriptor) == pytest.approx(1, abs=1e-6)


def test_no_features_of_any_kind_are_features_too(tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=np.zeros(0), descriptors=np.zeros(0))
    (tmp_path / "b.delf").write_bytes(b"")
    for name in ("a", "b"):
        assert len(read_features(tmp_path)[name].local) == 0


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_damaged_and_truncated_files_are_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_features(path, [photo("x", 200, 64), photo("y", 200, 64)])
    whole = path.read_bytes()
    for data in (b"", b"nothing of the kind", whole[: len(whole) // 2], whole[: len(whole) - 40]):
        path.write_bytes(data)
        with pytest.raises(FeatureFileError, match=rf"a\{suffix}"):
            [features for _, features in read_features(path).items()]
    np.save(path.open("wb"), np.ones(3))
    with pytest.raises(FeatureFileError, match=rf"a\{suffix}"):
        read_features(path)


def many(tmp_path, **changed):
    arrays = {
        "images": np.array(["a", "b", "c"]),
        "counts": np.array([2, 0, 1]),
        "keypoints": np.arange(6).reshape(3, 2),
        "descriptors": np.eye(3, dtype=np.float32),
        "global_descriptor": np.eye(3),
        "size": np.array([[4, 3], [40, 30], [400, 300]]),
    } | changed
    np.savez(tmp_path / "many.npz", **{name: array for name, array in arrays.items() if array is not None})
    return read_features(tmp_path / "many.npz")


def test_npz_of_many_photos_made_by_hand(tmp_path):
    found = many(tmp_path)
    assert list(found) == ["a", "b", "c"]
    assert found["a"].local.keypoints.tolist() == [[0, 1], [2, 3]]
    assert found["b"].local.keypoints.shape == (0, 2)
    assert found["b"].local.descriptors.shape == (0, 3)
    assert found["c"].local.keypoints.tolist() == [[4, 5]]
    assert found["c"].local.descriptors.tolist() == [[0, 0, 1]]
    assert found["b"].global_descriptor.tolist() == [0, 1, 0]
    assert found["c"].size == (400, 300)


def test_compressed_npz_of_many_photos_is_read_too(tmp_path):
    plain = dict(many(tmp_path))
    np.savez_compressed(tmp_path / "many.npz", **np.load(tmp_path / "many.npz"))
    with zipfile.ZipFile(tmp_path / "many.npz") as archive:
        assert archive.getinfo("keypoints.npy").compress_type == zipfile.ZIP_DEFLATED
    for name, features in read_features(tmp_path / "many.npz").items():
        assert_same(features, plain[name])


def test_columns_of_npz_in_fortran_order_are_mapped_as_they_are(tmp_path):
    found = many(tmp_path, keypoints=np.asfortranarray(np.arange(6).reshape(3, 2)))
    assert found["c"].local.keypoints.tolist() == [[4, 5]]


def test_an_array_that_claims_more_than_it_has_is_not_read_beyond_its_end(tmp_path):
    many(tmp_path)
    with zipfile.ZipFile(tmp_path / "many.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["keypoints.npy"] = members["keypoints.npy"][:-16]
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(FeatureFileError, match=r"many\.npz: keypoints cannot be read"):
        read_features(tmp_path / "many.npz")["c"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.array([1, 2, 3])}, r"images must be text \[n\], it is int64 \[3\]"),
        ({"images": np.array(["a", "b", "a"])}, "images names 'a' twice"),
        ({"counts": None}, r"keypoints has shape \[3, 2\], and should have 0 rows"),
        ({"counts": np.array([2, 0, 2])}, r"keypoints has shape \[3, 2\], and should have 4 rows"),
        ({"counts": np.array([4, -2, 1])}, "counts must be the numbers"),
        ({"counts": np.array([2, 1])}, "counts must be the numbers of local features of 3"),
        ({"global_descriptor": np.eye(2)}, r"global_descriptor has shape \[2, 2\], and should have 3 rows"),
        ({"images": np.array(["a", "b", None], object)}, "images cannot be read"),
    ],
)
def test_what_is_wrong_in_an_npz_of_many_is_said(tmp_path, changed, message):
    with pytest.raises(FeatureFileError, match=rf"many\.npz: {message}"):
        many(tmp_path, **changed)["a"]


def test_photos_of_one_npz_must_have_the_same(tmp_path):
    with pytest.raises(ValueError, match=r"b has .*descriptors float32 \[6\].*but a has .*\[4\]"):
        write_features(tmp_path / "a.npz", [photo("a"), photo("b", dimension=6)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "kind", "left"), [("a.h5", None, 0), ("a.npz", None, 0), ("a", "npz", 1)], ids=str
)
def test_writing_that_fails_leaves_whole_files(tmp_path, target, kind, left):
    def photos():
        yield photo("x")
        raise RuntimeError("no more photos")

    with pytest.raises(RuntimeError, match="no more photos"):
        write_features(tmp_path / target, photos(), kind)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == left


def test_wrong_paths_and_kinds_are_named(tmp_path):
    with pytest.raises(FeatureFileError, match=r"nowhere: there is no such file"):
        read_features(tmp_path / "nowhere")
    with pytest.raises(FeatureFileError, match=r"holds no feature files \(\.delf, .*\.npz\)"):
        read_features(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(FeatureFileError, match=r"a\.txt: its suffix is none of \.delf"):
        read_features(tmp_path / "a.txt")
    np.savez(tmp_path / "a.npz", images=np.zeros(0, np.str_))
    with pytest.raises(FeatureFileError, match="no features of any photo"):
        read_features(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="say which kind"):
        write_features(tmp_path / "folder", [])
    with pytest.raises(ValueError, match=r"no kind 'h5'.*delf, delg, npz"):
        write_features(tmp_path / "folder", [], "h5")
    with pytest.raises(ValueError, match="leads out of"):
        write_features(tmp_path / "folder", [photo("../x")], "npz")
    with pytest.raises(ValueError, match="nothing to write"):
        write_features(tmp_path / "folder", [photo("x", local=None)], "delf")


def test_reading_takes_the_memory_of_one_photo(tmp_path):
    photos = (photo(f"{i:03}", 500, 128) for i in range(60))
    tracemalloc.start()
    write_features(tmp_path / "many.npz", photos)
    _, written = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    count = sum(len(features.local) for features in read_features(tmp_path / "many.npz").values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60 * 500
    one = 500 * 128 * 4
    assert (tmp_path / "many.npz").stat().st_size > 60 * one
    assert written < 12 * one + (1 << 24)
    assert peak < 12 * one


def open_files(suffix):
    """How many feature files of this test are open, or mapped."""
    if suffix == ".h5":
        return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    maps = Path("/proc/self/maps").read_text().split()
    return len({word for word in maps if "shard-" in word})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mapped files are counted by Linux's /proc")
@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_only_a_few_of_many_files_are_open(tmp_path, suffix):
    wanted = [photo(f"{i:02}") for i in range(40)]
    for one in wanted:
        write_features(tmp_path / f"shard-{one.image_id}{suffix}", [one])
    before = open_files(suffix)
    found = read_features(tmp_path)
    assert open_files(suffix) == before
    with ThreadPoolExecutor(4) as pool:
        for one, read in zip(wanted, pool.map(found.__getitem__, found), strict=True):
            assert_same(read, one)
    assert before < open_files(suffix) <= before + 16
    assert_same(found["00"], wanted[0])


def test_reading_needs_no_torch():
    code = (
        "import sys, extractor.files as files; "
        "print([m for m in ('torch', 'cv2', 'pymilvus', 'ranking', 'landbridge') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
