"""Verified pairs on disk, torn, killed and reopened. Run as a script, this file is the process that dies."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.features import LocalFeatures
from ranking import match_store as module
from ranking.match_store import MatchStore, MatchStoreError
from ranking.region import covered_region
from ranking.verification import BatchedVerifier, Verification

IMAGES = 8
FILES = ("images.bin", "points.bin", "pairs.bin")


def key(image):
    """The numbers of images and the order of their digests have nothing to do with one another."""
    return hashlib.blake2b(bytes([image]), digest_size=16).hexdigest()


KEYS = [key(image) for image in range(IMAGES)]
NUMBER = {digest: image for image, digest in enumerate(KEYS)}
PAIRS = [(KEYS[a], KEYS[b]) for a, b in combinations(range(IMAGES), 2) if (a + b) % 4]
FEW = [(a, b) for a, b in PAIRS if max(NUMBER[a], NUMBER[b]) < 5]


@cache
def photo(image):
    """Features that say which image they are of: its number is the score of each."""
    random = np.random.default_rng(image)
    n = 3 + image
    points = np.rint(random.random((n, 2)) * 4000).astype(np.float32)
    return LocalFeatures(
        points, np.ones(n, np.float32), np.full(n, image, np.float32), np.eye(n, 16, dtype="f4")
    )


def fetch(keys):
    return {digest: photo(NUMBER[digest]) for digest in keys}


@cache
def outcome(first, second):
    """What the verifier below finds for two image numbers, in that order."""
    random = np.random.default_rng([first, second])
    inliers = int(random.integers(0, 4))
    matches = np.stack([random.permutation(3)[:inliers], random.permutation(3)[:inliers]], axis=1)
    significance = float(np.float32(random.normal(scale=20)))
    return Verification(
        inliers + int(random.integers(0, 50)), matches.astype(np.int32), np.eye(3), significance
    )


class Counting:
    """A verifier that remembers what it was asked."""

    def __init__(self, fingerprint="counting:1"):
        self.fingerprint = fingerprint
        self.asked = []

    def verify(self, query, candidates):
        first = int(query.scores[0])
        seconds = [int(candidate.scores[0]) for candidate in candidates]
        self.asked += [(KEYS[first], KEYS[second]) for second in seconds]
        return [outcome(first, second) for second in seconds]


def content(store):
    """Everything a store says of every pair of images, as plain values."""
    found = {}
    for a, b in combinations(sorted(KEYS), 2):
        record = store.record(a, b)
        if record is not None:
            fields = ("putatives", "inliers", "significance", "region_first", "region_second")
            points = store.correspondences(a, b)
            found[a, b] = ([record[name].item() for name in fields], points.tolist())
    return found


def expected(pairs):
    """The same, from the verifier itself."""
    found = {}
    for pair in pairs:
        a, b = sorted(pair)
        ours, theirs = photo(NUMBER[a]), photo(NUMBER[b])
        result = outcome(NUMBER[a], NUMBER[b])
        regions = [covered_region(p, m) for p, m in zip((ours, theirs), result.matches.T, strict=True)]
        points = [
            [*ours.keypoints[i].tolist(), *theirs.keypoints[j].tolist()] for i, j in result.matches.tolist()
        ]
        fields = [result.putatives, result.inliers, result.significance, *map(int, regions)]
        found[a, b] = (fields, points)
    return found


EXPECTED = expected(PAIRS)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The files of an uninterrupted store of few pairs."""
    folder = tmp_path_factory.mktemp("complete")
    with MatchStore(folder, Counting()) as store:
        store.verify(FEW, fetch)
        store.join(KEYS[:3])
        assert content(store) == expected(FEW)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def resume(folder, pairs):
    """Open a damaged store, finish it, and check that it equals one that was never interrupted."""
    verifier, final = Counting(), {pair: EXPECTED[pair] for pair in map(tuple, map(sorted, pairs))}
    with MatchStore(folder, verifier) as store:
        before = content(store)
        assert len(before) == len(store)
        assert before.items() <= final.items()
        # Not in the order of the first run, so that what is left of it cannot pass for what is new.
        later = [pair for pair in pairs if min(pair) > sorted(KEYS)[1]]
        assert store.verify(later, fetch) + store.verify(pairs, fetch) == len(pairs) - len(before)
    with MatchStore(folder, verifier) as store:
        assert content(store) == final
        assert len(store.among(KEYS)[0]) == len(store) == len(final)
        assert store.verify(pairs, fetch) == 0
    assert len(verifier.asked) == len(pairs) - len(before)
    return len(before)


def test_the_test_has_pairs_with_and_without_inliers():
    assert {fields[1] for fields, _ in EXPECTED.values()} >= {0, 1, 3}


def test_pairs_are_verified_once(tmp_path):
    verifier = Counting()
    with MatchStore(tmp_path, verifier) as store:
        assert store.missing(PAIRS) == sorted(EXPECTED)
        assert store.verify(PAIRS[:7], fetch) == 7
        turned = [(b, a) for a, b in PAIRS]
        assert store.verify(PAIRS[:3] + turned[:12] + PAIRS[:5] + [(KEYS[0], KEYS[0])], fetch) == 5
        assert store.missing(turned) == sorted(expected(PAIRS[12:]))
        assert store.verify(turned, fetch) == len(PAIRS) - 12
        assert store.missing(PAIRS) == []
        assert len(store) == len(PAIRS)
        assert content(store) == EXPECTED
    assert sorted(verifier.asked) == sorted(EXPECTED)
    assert all(first < second for first, second in verifier.asked)


def test_reopened_it_is_the_same_and_grows_on(tmp_path):
    for end in (5, 5, 11, len(PAIRS)):
        verifier = Counting()
        with MatchStore(tmp_path / "deep" / "down", verifier) as store:
            store.verify(PAIRS[:end], fetch)
            assert content(store) == expected(PAIRS[:end])
    assert sorted(verifier.asked) == sorted(expected(PAIRS[11:]))


def test_progress_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAIRS_PER_FLUSH", 2)
    wanted, told = [], []

    def features(keys):
        wanted.append(list(keys))
        return fetch(keys)

    pairs = [(KEYS[0], other) for other in KEYS[1:6]]
    with MatchStore(tmp_path, Counting()) as store:
        store.verify(pairs, features, lambda done, total: told.append((done, total)))
        assert content(store) == expected(pairs)
    assert all(2 <= len(keys) <= 3 for keys in wanted)
    assert {tuple(sorted((first, second))) for first, *rest in wanted for second in rest} == set(
        expected(pairs)
    )
    done = np.cumsum([len(keys) - 1 for keys in wanted]).tolist()
    assert told == [(count, 5) for count in done]


def test_a_failing_verifier_loses_no_finished_portion(tmp_path):
    class Failing(Counting):
        def verify(self, query, candidates):
            if len(self.asked) > 4:
                raise RuntimeError("power cut")
            return super().verify(query, candidates)

    verifier = Failing()
    with MatchStore(tmp_path, verifier) as store:
        with pytest.raises(RuntimeError, match="power cut"):
            store.verify(PAIRS, fetch)
        done = len(verifier.asked)
        assert content(store) == expected(verifier.asked)
        store.verifier = Counting()
        assert store.verify(PAIRS, fetch) == len(PAIRS) - done
        assert content(store) == EXPECTED
    assert resume(tmp_path, PAIRS) == len(PAIRS)


def test_the_order_of_a_pair_does_not_matter(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        store.verify(PAIRS, fetch)
        turned = 0
        for a, b in PAIRS:
            assert (store.record(a, b) == store.record(b, a)).all()
            there, back = store.correspondences(a, b), store.correspondences(b, a)
            assert there.dtype == np.float32
            assert there.shape == back.shape == (outcome(*sorted_numbers(a, b)).inliers, 4)
            assert (there[:, :2] == back[:, 2:]).all()
            assert (there[:, 2:] == back[:, :2]).all()
            mine = {tuple(point) for point in photo(NUMBER[a]).keypoints.tolist()}
            assert {tuple(point) for point in there[:, :2].tolist()} <= mine
            turned += a > b and len(there) > 0
        assert turned > 3


def sorted_numbers(a, b):
    return NUMBER[min(a, b)], NUMBER[max(a, b)]


def test_unknown_pairs(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        store.verify(PAIRS[:1], fetch)
        a, b = PAIRS[0]
        for first, second in ((a, key(99)), (key(99), b), (key(98), key(99)), (a, a)):
            assert store.record(first, second) is None
            points = store.correspondences(first, second)
            assert (points.shape, points.dtype) == ((0, 4), np.float32)


def test_points_are_rounded_to_pixels(tmp_path):
    class One(Counting):
        def verify(self, query, candidates):
            return [Verification(1, np.zeros((1, 2), np.int32), np.eye(3), 1.0) for _ in candidates]

    def features(keys):
        points = {min(keys): [[1.4, 2.6]], max(keys): [[-3.0, 70_000.0]]}
        one = np.ones(1, np.float32)
        return {k: LocalFeatures(np.array(points[k], "f4"), one, one, np.ones((1, 2), "f4")) for k in keys}

    with MatchStore(tmp_path, One()) as store:
        store.verify(PAIRS[:1], features)
        assert store.correspondences(*sorted(PAIRS[0])).tolist() == [[1, 3, 0, 65535]]


def test_among_numbers_images_by_their_place(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        pairs, records = store.among(KEYS)
        assert (pairs.shape, len(records)) == ((0, 2), 0)
        store.verify(PAIRS[:9], fetch)
        store.verify(PAIRS, fetch)
        keys = [KEYS[6], key(50), KEYS[1], key(51), KEYS[0], KEYS[3], KEYS[7]]
        pairs, records = store.among(keys)
        assert pairs.dtype == np.int64
        found = {}
        for (i, j), record in zip(pairs.tolist(), records, strict=True):
            names = ("putatives", "inliers", "significance", "region_first", "region_second")
            found[keys[i], keys[j]] = [record[name].item() for name in names]
        within = {pair: fields for pair, (fields, _) in EXPECTED.items() if set(pair) <= set(keys)}
        assert found == within
        assert len(within) > 5
        assert len(store.among([])[0]) == 0


def test_joined_images_are_remembered(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        assert store.joined == set()
        store.join(KEYS[:2])
        store.join(KEYS[1:4])
        assert store.joined == set(KEYS[:4])
    with MatchStore(tmp_path, Counting()) as store:
        assert store.joined == set(KEYS[:4])
        store.join([])
    assert (tmp_path / "joined.bin").stat().st_size == 4 * 16


def restore(folder, files, lengths):
    """Write the files of a store, those in `lengths` cut to that many bytes."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data[: lengths.get(name, len(data))])


@pytest.mark.parametrize("name", FILES)
def test_a_file_torn_at_any_byte(tmp_path, complete, name):
    kept = []
    for length in range(len(complete[name]) + 1):
        restore(tmp_path, complete, {name: length})
        kept.append(resume(tmp_path, FEW))
    assert kept[-1] == len(FEW)
    assert kept == sorted(kept)
    assert len(set(kept)) > 3


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_all_files_torn(complete, tmp_path_factory, shares):
    folder = tmp_path_factory.getbasetemp() / "torn"
    lengths = {name: int(share * len(complete[name])) for name, share in zip(FILES, shares, strict=True)}
    restore(folder, complete, lengths)
    resume(folder, FEW)


def test_a_torn_list_of_joined_images(tmp_path, complete):
    order = [complete["joined.bin"][i : i + 16].hex() for i in (0, 16, 32)]
    for length in range(49):
        restore(tmp_path, complete, {"joined.bin": length})
        with MatchStore(tmp_path, Counting()) as store:
            assert store.joined == set(order[: length // 16])
            store.join(KEYS[:4])
        with MatchStore(tmp_path, Counting()) as store:
            assert store.joined == set(KEYS[:4])


def test_files_that_are_not_there_yet(tmp_path, complete):
    for name in FILES:
        restore(tmp_path, complete, {})
        (tmp_path / name).unlink()
        resume(tmp_path, FEW)


def run(*arguments):
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_killed_at_any_write(tmp_path):
    """Every write of a run in turn is cut short by SIGKILL, at a seeded byte or right before or after it."""
    process = run("kill", tmp_path)
    assert process.returncode == 0, process.stderr
    deaths = json.loads(process.stdout)
    assert len(deaths) > 30
    assert set(deaths.values()) == {-signal.SIGKILL}
    kept = [resume(tmp_path / name, PAIRS) for name in sorted(deaths)]
    assert min(kept) == 0
    assert max(kept) > len(PAIRS) // 2


def test_another_process_is_refused(tmp_path, complete):
    restore(tmp_path, complete, {})
    with MatchStore(tmp_path, Counting()):
        process = run("open", tmp_path)
        assert process.returncode == 3
        assert f"{tmp_path} is in use by another process" in process.stdout
        with pytest.raises(MatchStoreError, match="in use"):
            MatchStore(tmp_path, Counting())
    assert resume(tmp_path, FEW) == len(FEW)


def test_another_verifier_is_refused(tmp_path, complete):
    restore(tmp_path, complete, {})
    with pytest.raises(MatchStoreError, match=r"counting:1.*counting:2") as refusal:
        MatchStore(tmp_path, Counting("counting:2"))
    assert "delete it or give another folder" in str(refusal.value)
    # Though the error lives on, the refused one holds no lock; and it has changed nothing.
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == complete
    assert resume(tmp_path, FEW) == len(FEW)


def test_another_version_is_refused(tmp_path, complete):
    header = json.loads(complete["store.json"])
    header["version"] += 1
    restore(tmp_path, complete | {"store.json": json.dumps(header).encode()}, {})
    with pytest.raises(MatchStoreError, match="delete it or give another folder"):
        MatchStore(tmp_path, Counting())


def test_a_damaged_header_is_named(tmp_path, complete):
    restore(tmp_path, complete | {"store.json": b'{"version'}, {})
    with pytest.raises(MatchStoreError, match=r"store\.json is damaged"):
        MatchStore(tmp_path, Counting())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MatchStoreError, match="file cannot hold verified pairs"):
        MatchStore(tmp_path / "file", Counting())


def test_with_the_real_verifier(tmp_path):
    random = np.random.default_rng(1)
    descriptors = random.normal(size=(40, 64)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    points = np.rint(random.random((40, 2)) * 500).astype(np.float32)
    ones = np.ones(40, np.float32)
    photos = {
        KEYS[0]: LocalFeatures(points, ones, ones, descriptors),
        KEYS[1]: LocalFeatures(points[::-1] + 25, ones, ones, descriptors[::-1].copy()),
    }
    first, second = sorted(photos)
    verifier = BatchedVerifier(threads=1)
    (direct,) = verifier.verify(photos[first], [photos[second]])
    with MatchStore(tmp_path, verifier) as store:
        store.verify([(second, first)], lambda keys: photos)
        record = store.record(first, second)
        found = store.correspondences(first, second)
    assert direct.inliers == 40
    assert record["inliers"].item() == record["putatives"].item() == 40
    assert record["significance"].item() == pytest.approx(direct.significance)
    ours, theirs = direct.matches.T
    assert (found == np.hstack([photos[first].keypoints[ours], photos[second].keypoints[theirs]])).all()


def kill_in_turn(root):
    """Fork a child for every write of a run, and for three moments of it; how each ended, by folder."""
    deaths, write = {}, 0
    finished = False
    while not finished:
        for moment in ("a before", "b within", "c after"):
            name = f"{write:03d} {moment}"
            child = os.fork()
            if not child:
                die_in_write(root / name, write, moment)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            finished = code == 0
            if finished:
                shutil.rmtree(root / name)
                break
            deaths[name] = code
        write += 1
    return deaths


def die_in_write(folder, moment_of, moment):
    """Fill a store in this process, which kills itself in write number `moment_of`."""
    status = 1
    try:
        append, left = module._append, [moment_of]

        def torn(path, data):
            if left[0]:
                left[0] -= 1
                append(path, data)
                return
            cut = int(np.random.default_rng(moment_of).integers(len(data) + 1))
            append(path, data[: {"a before": 0, "b within": cut, "c after": len(data)}[moment]])
            os.kill(os.getpid(), signal.SIGKILL)

        module._append = torn
        with MatchStore(folder, Counting()) as store:
            store.verify(PAIRS, fetch)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        print(json.dumps(kill_in_turn(Path(sys.argv[2]))))
    else:
        try:
            MatchStore(Path(sys.argv[2]), Counting()).close()
        except MatchStoreError as error:
            print(error)
            sys.exit(3)


def test_an_interrupted_append_leaves_the_store_as_it_is_on_disk(tmp_path, monkeypatch):
    from ranking import match_store
    from ranking.verification import BatchedVerifier

    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(60, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    points = (rng.random((60, 2)) * 300).astype(np.float32)
    same = LocalFeatures(points, np.ones(60, np.float32), np.ones(60, np.float32), descriptors)
    keys = [f"{i:032x}" for i in range(3)]
    append = match_store._append

    def torn(path, data):
        append(path, data[:5] if path.name == "points.bin" else data)
        if path.name == "points.bin":
            raise KeyboardInterrupt

    with MatchStore(tmp_path, BatchedVerifier(threads=1)) as store:
        monkeypatch.setattr(match_store, "_append", torn)
        with pytest.raises(KeyboardInterrupt):
            store.verify([(keys[0], keys[1])], lambda wanted: dict.fromkeys(wanted, same))
        monkeypatch.setattr(match_store, "_append", append)
        store.verify([(a, b) for a in keys for b in keys], lambda wanted: dict.fromkeys(wanted, same))
        found = store.correspondences(keys[0], keys[1])
        assert len(store) == 3
        assert len(found) == 60
        np.testing.assert_array_equal(found[:, :2], found[:, 2:])
