from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.pair_shards import (
    CODE,
    DIGEST,
    RECORD,
    Block,
    DamagedShardError,
    OpenShard,
    SealedShard,
    SortedRuns,
    codes,
    read_journal,
    seal,
)


@st.composite
def blocks(draw):
    """Blocks of distinct pairs, as a store would append them."""
    pairs = draw(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 2), unique=True, max_size=20))
    result = []
    while pairs or not result:
        part = [pairs.pop() for _ in range(min(len(pairs), draw(st.integers(0, 6))))]
        records = np.zeros(len(part), RECORD)
        for record, (first, second) in zip(records, part, strict=True):
            record["first"], record["second"] = first, second
            record["inliers"] = draw(st.integers(0, 3))
        count = int(records["inliers"].sum())
        points = np.array(draw(st.lists(st.integers(0, 65535), min_size=4 * count, max_size=4 * count)))
        digests = [draw(st.binary(min_size=16, max_size=16)) for _ in range(draw(st.integers(0, 2)))]
        joined = draw(st.lists(st.integers(0, 2**32 - 1), max_size=2))
        packed = np.frombuffer(b"".join(digests), DIGEST)
        block = Block(packed, np.array(joined, "<u4"), records, points.astype("<u2").reshape(-1, 4))
        result.append(block)
        if not part and draw(st.booleans()):
            break
    return result


def append(path, added):
    with path.open("ab") as file:
        file.write(added.encode(file.tell()))


def points_of(path, record):
    data = path.read_bytes()[int(record["offset"]) :][: 8 * int(record["inliers"])]
    return np.frombuffer(data, "<u2").reshape(-1, 4).tolist()


def content(shard):
    """Code -> all that is known of the pair, by looking each up."""
    wanted = np.sort(shard.codes)
    rows = shard.rows(wanted)
    assert (codes(shard.records[rows]) == wanted).all()
    return {
        code: (record.item()[:-1], points_of(shard.path, record))
        for code, record in zip(wanted.tolist(), shard.records[rows], strict=True)
    }


@settings(deadline=None, max_examples=60)
@given(blocks())
def test_a_sealed_shard_holds_what_its_journal_held(tmp_path_factory, added):
    folder = tmp_path_factory.mktemp("shards")
    journal, grown = folder / "journal", OpenShard(folder / "journal", np.zeros(0, RECORD), 0)
    expected = {}
    for block in added:
        append(journal, block)
        grown.add(block.records, journal.stat().st_size)
        starts = np.cumsum(block.records["inliers"]) - block.records["inliers"]
        for code, record, start in zip(codes(block.records).tolist(), block.records, starts, strict=True):
            points = block.points[start : start + record["inliers"]].tolist()
            expected[code] = (record.item()[:-1], points)
    whole, size = read_journal(journal)
    assert size == grown.size == journal.stat().st_size
    assert content(grown) == expected == content(OpenShard(journal, whole.records, size))
    if not expected:
        return
    seal(journal, folder / "shard")
    sealed = SealedShard(folder / "shard")
    assert not sealed.records.flags.owndata
    assert content(sealed) == expected
    assert (np.diff(sealed.codes.astype(object)) > 0).all()
    for name in ("digests", "joined"):
        told = b"".join(getattr(block, name).tobytes() for block in added)
        assert getattr(sealed, name).tobytes() == getattr(whole, name).tobytes() == told
    absent = np.setdiff1d(np.array([0, 1, 2**63, 2**64 - 1], CODE), sealed.codes)
    assert (sealed.rows(absent) == -1).all()
    assert (grown.rows(absent) == -1).all()


@settings(deadline=None, max_examples=60)
@given(blocks(), st.data())
def test_a_journal_is_sound_up_to_its_first_damaged_block(tmp_path_factory, added, data):
    journal = tmp_path_factory.mktemp("journal") / "journal"
    ends = [0]
    for block in added:
        append(journal, block)
        ends.append(journal.stat().st_size)
    whole, size = read_journal(journal)
    assert size == ends[-1]
    damaged = bytearray(journal.read_bytes())
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    journal.write_bytes(damaged)
    sound, end = read_journal(journal)
    assert end == max(start for start in ends if start <= place)
    assert (sound.records == whole.records[: len(sound.records)]).all()
    assert len(sound.records) == sum(len(b.records) for b in added[: ends.index(end)])
    journal.write_bytes(damaged[: data.draw(st.integers(0, place))])
    assert read_journal(journal)[1] in ends[: ends.index(end) + 1]


def test_a_file_that_is_no_shard(tmp_path):
    (tmp_path / "shard").write_bytes(b"LBmatch2" + b"\0" * 90)
    with pytest.raises(DamagedShardError, match="shard is not a shard"):
        SealedShard(tmp_path / "shard")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=9), max_size=9), st.lists(st.integers(0, 99)))
def test_sorted_runs_as_a_dictionary(added, asked):
    runs, expected = SortedRuns(CODE), {}
    for part in added:
        part = [key for key in dict.fromkeys(part) if key not in expected]
        values = np.arange(len(expected), len(expected) + len(part))
        runs.add(np.array(part, CODE), values)
        expected |= dict(zip(part, values.tolist(), strict=True))
    wanted = [*expected, *asked]
    found = runs.find(np.array(wanted, CODE))
    assert found.tolist() == [expected.get(key, -1) for key in wanted]


def test_sorted_runs_are_few(monkeypatch):
    runs, order = SortedRuns(CODE), np.random.default_rng(0).permutation(1000)
    for place, key in enumerate(order):
        runs.add(np.array([key], CODE), np.array([place]))
        lengths = [len(keys) for keys, _ in runs._runs]
        assert all(long >= 2 * short for long, short in pairwise(lengths))
    assert (runs.find(np.arange(1000).astype(CODE)) == np.argsort(order)).all()


def test_digests_that_end_in_zeros():
    """numpy takes zeros at the end of a string for padding."""
    digests = np.frombuffer(b"\1" + b"\0" * 15 + b"\1\1" + b"\0" * 14 + b"\0" * 16, DIGEST)
    runs = SortedRuns(DIGEST)
    runs.add(digests[:2], np.arange(2))
    assert runs.find(digests).tolist() == [0, 1, -1]
