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
from ranking import pair_shards
from ranking.match_store import MatchStore, MatchStoreError
from ranking.pair_shards import seal
from ranking.verification import BatchedVerifier, Verification

IMAGES = 8
JOURNAL = "journal-00000"


def key(image):
    """The numbers of images and the order of their digests have nothing to do with one another."""
    return hashlib.blake2b(bytes([image]), digest_size=16).hexdigest()


KEYS = [key(image) for image in range(IMAGES)]
NUMBER = {digest: image for image, digest in enumerate(KEYS)}
PAIRS = [(KEYS[a], KEYS[b]) for a, b in combinations(range(IMAGES), 2) if (a + b) % 4]
FEW = [(a, b) for a, b in PAIRS if max(NUMBER[a], NUMBER[b]) < 4]


@cache
def photo(image):
    """Features that say which image they are of: its number is the score of each."""
    random = np.random.default_rng(image)
    n = 3 + image
    points = np.rint(random.random((n, 2)) * 4000).astype(np.float32)
    return LocalFeatures(
        points, np.ones(n, np.float32), np.full(n, image, np.float32), np.eye(n, 16, dtype="f4")
    )


def places(pairs):
    """Pairs of digests as places among `KEYS`."""
    return np.array([[NUMBER[a], NUMBER[b]] for a, b in pairs], np.int32).reshape(-1, 2)


def verify(store, pairs, features=None, *progress):
    return store.verify(KEYS, places(pairs), features or fetch, *progress)


def missing(store, pairs):
    found = store.missing(KEYS, places(pairs))
    assert found.dtype == np.int64
    return [(KEYS[a], KEYS[b]) for a, b in found.tolist()]


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
            fields = ("putatives", "inliers", "significance")
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
        points = [
            [*ours.keypoints[i].tolist(), *theirs.keypoints[j].tolist()] for i, j in result.matches.tolist()
        ]
        found[a, b] = ([result.putatives, result.inliers, result.significance], points)
    return found


EXPECTED = expected(PAIRS)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The files of an uninterrupted store of few pairs, the images of all of them joined."""
    folder = tmp_path_factory.mktemp("complete")
    with MatchStore(folder, Counting()) as store:
        verify(store, FEW)
        store.join(KEYS[:3])
        assert content(store) == expected(FEW)
    return files_of(folder)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "_SHARD_PAIRS", 4)


def resume(folder, pairs):
    """Open a damaged store, finish it, and check that it equals one that was never interrupted."""
    verifier, final = Counting(), {pair: EXPECTED[pair] for pair in map(tuple, map(sorted, pairs))}
    with MatchStore(folder, verifier) as store:
        before = content(store)
        assert len(before) == len(store)
        assert before.items() <= final.items()
        if store.joined:
            assert before == final
        # Not in the order of the first run, so that what is left of it cannot pass for what is new.
        later = [pair for pair in pairs if min(pair) > sorted(KEYS)[1]]
        assert verify(store, later) + verify(store, pairs) == len(pairs) - len(before)
    with MatchStore(folder, verifier) as store:
        assert content(store) == final
        assert len(store.among(KEYS)[0]) == len(store) == len(final)
        assert verify(store, pairs) == 0
    assert len(verifier.asked) == len(pairs) - len(before)
    return len(before)


def test_the_test_has_pairs_with_and_without_inliers():
    assert {fields[1] for fields, _ in EXPECTED.values()} >= {0, 1, 3}


def test_pairs_are_verified_once(tmp_path):
    verifier = Counting()
    with MatchStore(tmp_path, verifier) as store:
        assert missing(store, PAIRS) == sorted(EXPECTED)
        assert verify(store, PAIRS[:7]) == 7
        turned = [(b, a) for a, b in PAIRS]
        assert verify(store, PAIRS[:3] + turned[:12] + PAIRS[:5] + [(KEYS[0], KEYS[0])]) == 5
        assert missing(store, turned) == sorted(expected(PAIRS[12:]))
        assert verify(store, turned) == len(PAIRS) - 12
        assert missing(store, PAIRS) == []
        assert len(store) == len(PAIRS)
        assert content(store) == EXPECTED
    assert sorted(verifier.asked) == sorted(EXPECTED)
    assert all(first < second for first, second in verifier.asked)


@pytest.mark.parametrize("shard", [1, 4, 11, 1000])
def test_reopened_it_is_the_same_and_grows_on(tmp_path, monkeypatch, shard):
    monkeypatch.setattr(module, "_SHARD_PAIRS", shard)
    for end in (5, 5, 11, len(PAIRS)):
        verifier = Counting()
        with MatchStore(tmp_path / "deep" / "down", verifier) as store:
            verify(store, PAIRS[:end])
            store.join(KEYS[: end % 5])
            assert content(store) == expected(PAIRS[:end])
            assert missing(store, PAIRS) == sorted(expected(PAIRS[end:]))
            assert store.joined == set(KEYS[: max(end, 11) % 5 if end >= 11 else 0])
    assert sorted(verifier.asked) == sorted(expected(PAIRS[11:]))
    sealed = len(list((tmp_path / "deep" / "down").glob("shard-*")))
    assert sealed >= {1: 6, 4: 3, 11: 1, 1000: 0}[shard]
    assert (sealed > 0) == (shard < 1000)


def test_a_shard_is_sealed_when_its_journal_is_long(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_BYTES", 500)
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, PAIRS)
        assert content(store) == EXPECTED
    assert 1 < len(list(tmp_path.glob("shard-*"))) < len(PAIRS)
    assert resume(tmp_path, PAIRS) == len(PAIRS)


def test_progress_in_portions(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAIRS_PER_FLUSH", 2)
    wanted, told = [], []

    def features(keys):
        wanted.append(list(keys))
        return fetch(keys)

    pairs = [(KEYS[0], other) for other in KEYS[1:6]]
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, pairs, features, lambda done, total: told.append((done, total)))
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
            verify(store, PAIRS)
        done = len(verifier.asked)
        assert content(store) == expected(verifier.asked)
        store.verifier = Counting()
        assert verify(store, PAIRS) == len(PAIRS) - done
        assert content(store) == EXPECTED
    assert resume(tmp_path, PAIRS) == len(PAIRS)


def test_the_order_of_a_pair_does_not_matter(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, PAIRS)
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
        verify(store, PAIRS[:1])
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
        verify(store, PAIRS[:1], features)
        assert store.correspondences(*sorted(PAIRS[0])).tolist() == [[1, 3, 0, 65535]]


def test_among_numbers_images_by_their_place(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        pairs, records = store.among(KEYS)
        assert (pairs.shape, len(records)) == ((0, 2), 0)
        verify(store, PAIRS[:9])
        verify(store, PAIRS)
        keys = [KEYS[6], key(50), KEYS[1], key(51), KEYS[0], KEYS[3], KEYS[7]]
        pairs, records = store.among(keys)
        assert pairs.dtype == np.int64
        found = {}
        for (i, j), record in zip(pairs.tolist(), records, strict=True):
            names = ("putatives", "inliers", "significance")
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
        size = (tmp_path / JOURNAL).stat().st_size
        store.join([])
        store.join(KEYS[1:3])
    assert (tmp_path / JOURNAL).stat().st_size == size


def restore(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(("rest", "step"), [(b"", 1), (b"\0", 3)], ids=["torn", "zeros"])
def test_a_journal_cut_at_any_byte(tmp_path, complete, rest, step):
    """After a power cut, the rest of a file may be there in length alone."""
    kept = []
    journal = complete[JOURNAL]
    for length in [*range(0, len(journal), step), len(journal)]:
        tail = rest * (len(journal) - length)
        restore(tmp_path / "it", complete | {JOURNAL: journal[:length] + tail})
        kept.append(resume(tmp_path / "it", FEW))
    assert kept[-1] == len(FEW)
    assert kept == sorted(kept)
    assert len(set(kept)) > 3


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_byte_of_the_journal_changed(complete, tmp_path_factory, data):
    journal = bytearray(complete[JOURNAL])
    journal[data.draw(st.integers(0, len(journal) - 1))] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.getbasetemp() / "changed"
    restore(folder, complete | {JOURNAL: bytes(journal)})
    resume(folder, FEW)


def test_no_image_is_joined_whose_pairs_are_lost(tmp_path, complete):
    """A power cut may lose a block, and keep a later one."""
    journal = complete[JOURNAL]
    last = journal.rindex(b"LBmb")
    restore(tmp_path / "it", complete)
    with MatchStore(tmp_path / "it", Counting()) as store:
        assert store.joined == set(KEYS[:3])
    for lost in range(0, last, 7):
        damaged = journal[:lost] + b"\0" * 7 + journal[lost + 7 :]
        if damaged[:last] != journal[:last]:
            restore(tmp_path / "it", complete | {JOURNAL: damaged})
            with MatchStore(tmp_path / "it", Counting()) as store:
                assert store.joined == set()


def test_files_that_are_not_there_yet(tmp_path, complete):
    for names in ([], ["store.json"], ["store.json", "lock"]):
        restore(tmp_path / "it", {name: complete[name] for name in names})
        assert resume(tmp_path / "it", FEW) == 0


def test_a_shard_half_written_is_written_again(tmp_path, small_shards):
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, PAIRS[:3])
    (tmp_path / "shard-00000.part").write_bytes(b"half")
    assert resume(tmp_path, PAIRS) == 3
    assert not list(tmp_path.glob("*.part"))


def test_a_journal_that_was_sealed_already_is_dropped(tmp_path, small_shards):
    verifier = Counting()
    with MatchStore(tmp_path, verifier) as store:
        verify(store, PAIRS[:3])
    journal = (tmp_path / JOURNAL).read_bytes()
    seal(tmp_path / JOURNAL, tmp_path / "shard-00000")
    assert (tmp_path / JOURNAL).read_bytes() == journal
    assert resume(tmp_path, PAIRS) == 3
    assert not (tmp_path / JOURNAL).exists()


def with_counts(data, **changes):
    """A sealed shard that says it holds other numbers of things."""
    for name, change in changes.items():
        at = 8 + 8 * ["pairs", "images", "joined", "points"].index(name)
        count = int.from_bytes(data[at : at + 8], "little") + change
        data = data[:at] + count.to_bytes(8, "little") + data[at + 8 :]
    return data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "shard-00001").unlink(), "a shard is missing"),
        (lambda folder: (folder / "shard-00001").write_bytes(b""), "shard-00001 is not a shard"),
        (lambda folder: (folder / "shard-00001").write_bytes(b"\0" * 64), "shard-00001 is not a shard"),
        (
            lambda folder: (folder / "shard-00001").write_bytes((folder / "shard-00001").read_bytes()[:-1]),
            r"shard-00001 is damaged: \d+ bytes",
        ),
        (
            lambda folder: (folder / "shard-00001").write_bytes(
                with_counts((folder / "shard-00001").read_bytes(), joined=2, points=-1)
            ),
            "shard-00001 is damaged",
        ),
    ],
)
def test_damaged_shards_are_named(tmp_path, small_shards, damage, message):
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, PAIRS)
    damage(tmp_path)
    with pytest.raises(MatchStoreError, match=rf"{message}.*delete .* it is rebuilt"):
        MatchStore(tmp_path, Counting())


def run(*arguments):
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_killed_at_any_write(tmp_path):
    """Every write of a run in turn is cut short by SIGKILL, at a seeded byte or right before or after it."""
    process = run("kill", tmp_path)
    assert process.returncode == 0, process.stderr
    deaths = json.loads(process.stdout)
    assert set(deaths.values()) == {-signal.SIGKILL}
    for step in ("_append", "sync", "replace", "unlink"):
        assert sum(step in name for name in deaths) >= 4
    kept = {name: resume(tmp_path / name, PAIRS) for name in sorted(deaths)}
    assert set(kept.values()) >= {0, 5, len(PAIRS)}
    assert any(list((tmp_path / name).glob("shard-*")) for name in deaths)


def test_another_process_is_refused(tmp_path, complete):
    folder = tmp_path / "it"
    restore(folder, complete)
    with MatchStore(folder, Counting()):
        process = run("open", folder)
        assert process.returncode == 3
        assert f"{folder} is in use by another process" in process.stdout
        with pytest.raises(MatchStoreError, match="in use"):
            MatchStore(folder, Counting())
    assert resume(folder, FEW) == len(FEW)


def test_another_verifier_is_refused(tmp_path, complete):
    folder = tmp_path / "it"
    restore(folder, complete)
    with pytest.raises(MatchStoreError, match=r"counting:1.*counting:2") as refusal:
        MatchStore(folder, Counting("counting:2"))
    assert "delete it or give another folder" in str(refusal.value)
    # Though the error lives on, the refused one holds no lock; and it has changed nothing.
    assert files_of(folder) == complete
    assert resume(folder, FEW) == len(FEW)


@pytest.mark.parametrize("version", [2, 4])
def test_another_version_is_refused(tmp_path, complete, version):
    header = json.dumps(json.loads(complete["store.json"]) | {"version": version}).encode()
    files = complete | {"store.json": header, "pairs.bin": b"old", "shard-00000": b"strange"}
    restore(tmp_path / "it", files)
    with pytest.raises(
        MatchStoreError, match=rf"in format {version} and this is format 3; delete it or give"
    ):
        MatchStore(tmp_path / "it", Counting())
    assert files_of(tmp_path / "it") == files


@pytest.mark.parametrize("header", [b'{"version', b"[]", b"null"])
def test_a_damaged_header_is_named(tmp_path, complete, header):
    restore(tmp_path / "it", complete | {"store.json": header})
    with pytest.raises(MatchStoreError, match=r"store\.json is damaged|holds pairs of"):
        MatchStore(tmp_path / "it", Counting())


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
        verify(store, [(second, first)], lambda keys: photos)
        record = store.record(first, second)
        found = store.correspondences(first, second)
    assert direct.inliers == 40
    assert record["inliers"].item() == record["putatives"].item() == 40
    assert record["significance"].item() == pytest.approx(direct.significance)
    ours, theirs = direct.matches.T
    assert (found == np.hstack([photos[first].keypoints[ours], photos[second].keypoints[theirs]])).all()


@pytest.mark.parametrize("torn", [0, 5, 10**9])
def test_an_interrupted_append_leaves_the_store_as_it_is_on_disk(tmp_path, monkeypatch, torn):
    def interrupted(path, data):
        append(path, data[:torn])
        raise KeyboardInterrupt

    append = module._append
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, PAIRS[:3])
        monkeypatch.setattr(module, "_append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verify(store, PAIRS)
        monkeypatch.undo()
        done = len(store)
        assert (done > 3) == (torn > 5)
        assert content(store).items() <= EXPECTED.items()
        assert verify(store, PAIRS) == len(PAIRS) - done
        assert content(store) == EXPECTED
    assert resume(tmp_path, PAIRS) == len(PAIRS)


def test_what_must_survive_a_power_cut_is_synced(tmp_path, monkeypatch):
    synced = []

    def noted(file):
        synced.append((Path(file.name).name, os.fstat(file.fileno()).st_size))
        sync(file)

    sync = module.sync
    monkeypatch.setattr(module, "sync", noted)
    journal = tmp_path / JOURNAL
    with MatchStore(tmp_path, Counting()) as store:
        assert [name for name, _ in synced] == ["store.part"]
        verify(store, PAIRS)
        store.join(KEYS[:2])
        assert synced[1:] == [(JOURNAL, journal.stat().st_size)]
        store.join(KEYS[:2])
        assert len(synced) == 2
    assert synced[2:] == [(JOURNAL, journal.stat().st_size)]


def test_a_failed_seal_is_made_up_for(tmp_path, monkeypatch, small_shards):
    def full(file):
        raise OSError("disk full")

    with MatchStore(tmp_path, Counting()) as store:
        with monkeypatch.context() as patch:
            patch.setattr(pair_shards, "sync", full)
            with pytest.raises(OSError, match="disk full"):
                verify(store, PAIRS)
        assert len(store) >= 4
        assert not list(tmp_path.glob("shard-*"))
        verify(store, PAIRS)
        assert content(store) == EXPECTED
        assert list(tmp_path.glob("shard-*"))


def test_keys_that_are_no_digests(tmp_path):
    for wrong in ("abc", "x" * 32, " " * 32, "ab " * 10 + "ab", KEYS[0] + "00", ""):
        with MatchStore(tmp_path, Counting()) as store:
            for call in (
                lambda keys, store=store: store.missing(keys, np.array([[0, 1]])),
                lambda keys, store=store: store.among(keys),
                lambda keys, store=store: store.join(keys),
                lambda keys, store=store: store.record(*keys),
            ):
                with pytest.raises(ValueError, match=f"'{wrong}' is no digest: it must have 32 hexadecimal"):
                    call([KEYS[1], wrong])


def test_pairs_out_of_range_and_keys_that_stand_twice(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        for wrong in (-1, 8):
            with pytest.raises(ValueError, match=rf"images 0 to 7, got .*{wrong}"):
                store.missing(KEYS, np.array([[0, wrong]]))
        with pytest.raises(ValueError, match="places among the keys, got float64"):
            store.missing(KEYS, np.array([[0.0, 1.0]]))
        twice = [KEYS[2], KEYS[1], KEYS[2]]
        for call in (store.among, lambda keys: store.missing(keys, np.array([[0, 1], [1, 2]]))):
            with pytest.raises(ValueError, match=f"images 0 and 2 have the same digest {KEYS[2]}"):
                call(twice)


def test_batches_are_all_pairs_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_PAIRS", 9)
    monkeypatch.setattr(module, "_BATCH", 2)
    with MatchStore(tmp_path, Counting()) as store:
        verify(store, PAIRS)
        batches = list(store.batches(KEYS))
        assert all(len(pairs) == len(records) <= 2 for pairs, records in batches)
        _, records = store.among(KEYS)
    assert sorted(map(tuple, np.concatenate([pairs for pairs, _ in batches]).tolist())) == sorted(
        tuple(map(NUMBER.get, pair)) for pair in EXPECTED
    )
    assert (np.concatenate([found for _, found in batches]) == records).all()


def inliers(pairs, records):
    assert (pairs.dtype, pairs.shape) == (np.int64, (len(records), 2))
    return records["inliers"] / 4


def test_the_graph_of_the_store(tmp_path, small_shards):
    keys = [KEYS[i] for i in (5, 3, 1, 7, 0)]
    with MatchStore(tmp_path, Counting()) as store:
        empty = store.graph(keys, inliers)
        assert (len(empty), empty.edges) == (5, 0)
        verify(store, PAIRS)
        graph = store.graph(keys, inliers)
        sure = store.graph(keys, inliers, minimum=0.75)
        for confidence, message in (
            (lambda _, records: np.full(len(records), np.nan), "not a number"),
            (lambda _, records: np.ones(len(records) - 1), r"\d records, but confidences \[\d\]"),
        ):
            with pytest.raises(ValueError, match=message):
                store.graph(keys, confidence)
    found = {}
    for i, first in enumerate(keys):
        for at in range(graph.indptr[i], graph.indptr[i + 1]):
            found[first, keys[graph.indices[at]]] = graph.confidence[at].item()
    wanted = {}
    for (a, b), ((_, count, _), _) in EXPECTED.items():
        if {a, b} <= set(keys) and count >= 2:
            wanted |= {(a, b): count / 4, (b, a): count / 4}
    assert found == wanted
    assert len(wanted) > 4
    assert sure.edges == sum(value >= 0.75 for value in wanted.values()) / 2


def neighbour_lists(points, k):
    """The k nearest others of points on a line; ties by number."""
    distance = np.abs(points[:, None] - points[None]).astype(float)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :k]


class Nearby(Counting):
    """A verifier of photos that stand for points on a line; it counts."""

    def verify(self, query, candidates):
        self.asked += [(query.scores[0], candidate.scores[0]) for candidate in candidates]
        match = np.zeros((1, 2), np.int32)
        near = [int(abs(query.scores[0] - candidate.scores[0]) < 2) for candidate in candidates]
        return [Verification(1, match[:is_near], np.eye(3), float(is_near)) for is_near in near]


def test_more_images_cost_what_is_new(tmp_path, monkeypatch):
    """1 % more index images, then some queries, cost their own share of verifications, and change nothing."""
    monkeypatch.setattr(module, "_SHARD_PAIRS", 1000)
    monkeypatch.setattr(module, "_BATCH", 500)
    points = np.random.default_rng(0).permutation(415)
    keys = [hashlib.blake2b(b"%d" % point, digest_size=16).hexdigest() for point in points]
    value = dict(zip(keys, points.tolist(), strict=True))

    def features(wanted):
        one = np.ones(1, np.float32)
        return {
            k: LocalFeatures(np.ones((1, 2), "f4"), one, one * value[k], np.ones((1, 1), "f4"))
            for k in wanted
        }

    def confidence(pairs, records):
        return records["significance"]

    lists = {n: neighbour_lists(points[:n], 10) for n in (400, 404, 415)}
    cost, told = {}, []
    with MatchStore(tmp_path / "grown", verifier := Nearby()) as store:
        for n, images in ((400, None), (404, np.arange(400, 404)), (415, np.arange(404, 415))):
            before = len(verifier.asked)
            rows = lists[n] if images is None else lists[n][images]
            graph = store.build(
                keys[:n],
                rows,
                features,
                confidence,
                images=images,
                progress=lambda *a: told.append(a),
            )
            cost[n] = len(verifier.asked) - before
        pairs = len(store)
        again = store.build(keys, lists[415][:404], features, confidence, images=np.arange(404))
        assert len(store) > pairs
    assert len(set(map(frozenset, verifier.asked))) == len(verifier.asked)
    owed = {frozenset((i, int(j))) for i in range(400) for j in lists[400][i]}
    assert cost[400] == len(owed)
    new = {frozenset((i, int(j))) for i in range(400, 404) for j in lists[404][i]}
    assert cost[404] == len(new) <= 40
    assert cost[404] / cost[400] < 0.02
    new |= {frozenset((i, int(j))) for i in range(404, 415) for j in lists[415][i]}
    assert cost[415] == len(new) - cost[404] <= 110
    assert told[:8] == [(done, 400) for done in range(50, 401, 50)]
    assert told[8:] == [(4, 4), (11, 11)]

    with MatchStore(tmp_path / "at once", Nearby()) as store:
        whole = store.build(keys, lists[415], features, confidence)
    for name in ("indptr", "indices", "confidence"):
        assert (getattr(again, name) == getattr(whole, name)).all()
    close = np.abs(np.diff(np.sort(points))) < 2
    assert whole.edges == close.sum() == 414
    assert graph.edges <= whole.edges


def test_lists_that_do_not_fit(tmp_path):
    with MatchStore(tmp_path, Counting()) as store:
        for neighbours, images in (
            (np.zeros((7, 2), int), None),
            (np.zeros(8, int), None),
            (np.zeros((8, 2), int), [1, 2]),
        ):
            with pytest.raises(
                ValueError, match=r"[28] images, but neighbours \[[78](, 2)?\], not \[[28], k\]"
            ):
                store.build(KEYS, neighbours, fetch, inliers, images=images)
        with pytest.raises(ValueError, match="images 0 to 7, got 1 to 9"):
            store.build(KEYS, np.array([[9]]), fetch, inliers, images=np.array([1]))
        padded = np.array([[3, -1], [0, 1]], np.int32)
        store.build(KEYS, padded, fetch, inliers, images=np.array([0, 1]))
        assert len(store) == 2


STEPS = {"_append": module, "sync": pair_shards, "replace": Path, "unlink": Path}
"""Everything that changes files."""


def kill_in_turn(root):
    """Fork a child for every step of a run, and for three moments of it; how each ended, by folder."""
    deaths, number = {}, 0
    while True:
        for moment in ("before", "after", "within"):
            folder = root / f"{number:03d} {moment}"
            child = os.fork()
            if not child:
                die_in_step(folder, number, moment)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                shutil.rmtree(folder)
                return deaths
            step = (root / f"{number:03d} step").read_text()
            deaths[folder.rename(folder.with_name(f"{folder.name} {step}")).name] = code
            if moment == "after" and step != "_append":
                break
        number += 1


def die_in_step(folder, number, moment):
    """Fill a store in this process, which kills itself in step `number`."""
    status = 1
    try:
        module._SHARD_PAIRS = 7
        left = [number]

        def watched(name, step):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] != -1:
                    return step(*arguments, **options)
                (folder.parent / f"{number:03d} step").write_text(name)
                if moment == "after":
                    step(*arguments, **options)
                if moment == "within" and name == "_append":
                    path, data = arguments
                    step(path, data[: int(np.random.default_rng(number).integers(len(data) + 1))])
                return os.kill(os.getpid(), signal.SIGKILL)

            return call

        for name, owner in STEPS.items():
            setattr(owner, name, watched(name, getattr(owner, name)))
        with MatchStore(folder, Counting()) as store:
            verify(store, PAIRS)
            store.join(KEYS)
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


def test_closed_twice_and_the_folder_gone_between(tmp_path):
    store = MatchStore(tmp_path / "store", BatchedVerifier())
    store.close()
    (tmp_path / "store").rename(tmp_path / "moved")
    store.close()
