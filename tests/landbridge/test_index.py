"""The index on Milvus Lite, over toy photos; `test_cli` and `test_evaluation` use the real extractor."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from connector.errors import CollectionMissingError, FingerprintMismatchError
from extractor.photo import PhotoError
from landbridge import Index
from landbridge.datasets import Box
from ranking.match_store import MatchStoreError
from ranking.verification import BatchedVerifier

TOYS = [f"{landmark}/{step}" for landmark in ("castle", "tower") for step in range(4)]


def content(index):
    """Digests and exact embeddings by id."""
    ids, embeddings = index.collection.embeddings()
    return {
        record.image_id: (record.digest, embedding.tobytes())
        for record, embedding in zip(index.collection.records(ids), embeddings, strict=True)
    }


@pytest.fixture
def verified(monkeypatch):
    """How many pairs the verifier is given during a test."""
    counts = Counter()
    verify = BatchedVerifier.verify

    def counted(self, query, candidates):
        counts["pairs"] += len(candidates)
        return verify(self, query, candidates)

    monkeypatch.setattr(BatchedVerifier, "verify", counted)
    return counts


class TestAdd:
    def test_a_folder(self, toy_photos, tmp_path):
        steps = []
        with Index(tmp_path / "toy.db") as index:
            assert len(index) == 0
            added = index.add(toy_photos, lambda *step: steps.append(step))
            assert (sorted(added.added), added.unchanged, added.failed) == (TOYS, 0, {})
            assert added.verified == 8 * 7 / 2
            assert len(index) == 8
            assert sorted(index.library.ids) == TOYS
            info = index.info()
        assert steps[0] == ("extract", 0, 8)
        assert ("extract", 8, 8) in steps
        assert steps[-1] == ("verify index photos", 28, 28)
        assert info.items() >= {
            "count": 8, "extractor": "toy-1", "dimension": 32, "verified_pairs": 28, "joined": 8,
        }.items()  # fmt: skip
        assert info["matches"] == str(tmp_path / "toy.db.matches/landbridge")

    def test_a_second_run_does_nothing(self, toy_photos, toy_index, tmp_path, verified, monkeypatch):
        toy_index.close()
        monkeypatch.setattr("landbridge.collection_extractor.create_extractor", None)
        with Index(tmp_path / "toy.db") as index:
            before = content(index)
            again = index.add(toy_photos)
            assert (again.added, again.unchanged, again.failed, again.verified) == ([], 8, {}, 0)
            assert content(index) == before
        assert verified["pairs"] == 0

    def test_one_photo_and_photos_by_id(self, toy, toy_photos, tmp_path):
        with Index(tmp_path / "one.db") as index:
            assert index.add(toy_photos / "castle/0.png").added == ["0"]
            assert index.add({"far/away": toy_photos / "tower/0.png"}).added == ["far/away"]
            assert sorted(index.library.ids) == ["0", "far/away"]

    def test_a_changed_photo_is_done_again(self, toy, toy_photos, toy_index, verified):
        before = content(toy_index)
        assert toy_index.extractor.extracted == []
        toy.write_photo(toy_photos / "castle/0.png", [50, 51, 52, 53])
        verified.clear()
        again = toy_index.add(toy_photos)
        assert (again.added, again.unchanged) == (["castle/0"], 7)
        assert toy_index.extractor.extracted == ["castle/0"]
        # Only the changed photo is verified with the seven others, under its new digest.
        assert again.verified == verified["pairs"] == 7
        after = content(toy_index)
        assert [name for name in TOYS if after[name] != before[name]] == ["castle/0"]
        found = toy_index.search(toy_photos / "castle/1.png").hits
        assert {hit.image_id: hit.how for hit in found}["castle/0"] == "similar"

    def test_what_was_extracted_before_it_stopped_is_not_done_again(
        self, toy, toy_photos, tmp_path, monkeypatch
    ):
        def stop(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, Index(tmp_path / "new.db") as index:
            patch.setattr("landbridge.ingest.Whitening.fit", stop)
            with pytest.raises(KeyboardInterrupt):
                index.add(toy_photos)
            assert (len(index.extractor.extracted), len(index)) == (8, 0)
        toy.write_photo(toy_photos / "castle/0.png", [50, 51, 52, 53])
        with Index(tmp_path / "new.db") as index:
            assert sorted(index.add(toy_photos).added) == TOYS
            assert index.extractor.extracted == ["castle/0"]

    def test_a_touched_photo_is_read_and_found_unchanged(self, toy_photos, toy_index, verified):
        before = content(toy_index)
        os.utime(toy_photos / "castle/0.png", ns=(1, 1))
        verified.clear()
        again = toy_index.add(toy_photos)
        assert (again.added, again.verified, verified["pairs"]) == (["castle/0"], 0, 0)
        assert content(toy_index) == before

    def test_a_moved_folder(self, toy_photos, toy_index, tmp_path, monkeypatch):
        before = content(toy_index)
        monkeypatch.setattr(toy_index.extractor, "extract", None)
        toy_photos.rename(tmp_path / "elsewhere")
        again = toy_index.add(tmp_path / "elsewhere")
        assert (again.added, again.unchanged, again.failed, again.verified) == ([], 8, {}, 0)
        assert content(toy_index) == before
        paths = {record.image_id: record.path for record in toy_index.collection.records(TOYS)}
        assert paths == {name: str(tmp_path / f"elsewhere/{name}.png") for name in TOYS}

    def test_another_file_of_the_same_id_is_refused(self, toy, toy_photos, toy_index, tmp_path):
        before = content(toy_index)
        other = toy.write_photo(tmp_path / "other/castle/0.png", [70, 71])
        toy.write_photo(tmp_path / "other/castle/9.png", [72, 73])
        added = toy_index.add(tmp_path / "other")
        assert added.added == ["castle/9"]
        assert added.failed == {
            other: f"goes by the same id as {toy_photos}/castle/0.png (castle/0): rename it, index a folder "
            "above both, or use another collection"
        }
        assert {name: content(toy_index)[name] for name in TOYS} == before
        # Where the first is gone, the second takes its place.
        (toy_photos / "castle/0.png").unlink()
        assert toy_index.add(tmp_path / "other").added == ["castle/0"]
        assert content(toy_index)["castle/0"] != before["castle/0"]

    def test_bad_photos_are_named_and_the_rest_goes_on(self, toy, toy_photos, tmp_path):
        good = (toy_photos / "castle/0.png").read_bytes()
        Image.new("RGB", (320, 240)).save(toy_photos / "whole.jpg")
        bad = {
            "empty.jpg": (b"", "the file is empty"),
            "cut.jpg": ((toy_photos / "whole.jpg").read_bytes()[:-400], "damaged or truncated"),
            "text.jpg": (b"no photo at all", "not a photo in a format that is read"),
            "castle/0.webp": (good, "goes by the same id as 0.png (castle/0): rename one of them"),
        }
        (toy_photos / "whole.jpg").unlink()
        for name, (data, _) in bad.items():
            (toy_photos / name).write_bytes(data)
        (toy_photos / "gone.png").symlink_to(toy_photos / "nowhere.png")
        with Index(tmp_path / "toy.db") as index:
            # castle/0.png comes first by name.
            added = index.add(toy_photos)
            assert sorted(added.added) == TOYS
            assert {str(path.relative_to(toy_photos)) for path in added.failed} == bad.keys()
            for name, (_, reason) in bad.items():
                assert added.failed[toy_photos / name].startswith(reason)
            assert len(index) == 8
            again = index.add(toy_photos)
            assert (again.added, again.unchanged, again.failed) == ([], 8, added.failed)
            missing = index.add({"x": toy_photos / "nowhere.png"})
            assert missing.failed == {toy_photos / "nowhere.png": "cannot be read: No such file or directory"}

    def test_nothing_but_bad_photos(self, toy, tmp_path):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad/empty.jpg").touch()
        with Index(tmp_path / "toy.db") as index:
            added = index.add(tmp_path / "bad")
            assert (added.added, len(added.failed), len(index)) == ([], 1, 0)
            with pytest.raises(CollectionMissingError, match="holds no photos yet: index some first"):
                index.search(toy.write_photo(tmp_path / "query.png", [1]))

    def test_photos_that_show_nothing_and_copies(self, toy, tmp_path):
        for name in ("a", "b"):
            toy.write_photo(tmp_path / f"photos/{name}.png", [1, 2, 3])
            toy.write_photo(tmp_path / f"photos/blank-{name}.png", [])
        with Index(tmp_path / "toy.db") as index:
            assert len(index.add(tmp_path / "photos").added) == 4
            hits = index.search(tmp_path / "photos/a.png").hits
            assert {hit.image_id for hit in hits if hit.how == "verified"} == {"a", "b"}


class TestWhitening:
    def test_a_later_process_applies_the_same(self, toy, toy_index, tmp_path):
        query = toy.write_photo(tmp_path / "query.png", [1, 2, 3, 4], 5)
        (first,), _ = toy_index.queries({"query": query})
        before = content(toy_index)
        toy_index.close()
        with Index(tmp_path / "toy.db") as index:
            (second,), _ = index.queries({"query": query})
            assert second.embedding.tobytes() == first.embedding.tobytes()
            assert second.key == first.key
            # Photos added later are mapped like the first ones, and change nothing for them.
            for number in range(40):
                toy.write_photo(tmp_path / f"more/{number}.png", [100 + number, 101 + number])
            index.add(tmp_path / "more")
            (third,), _ = index.queries({"query": query})
            assert third.embedding.tobytes() == first.embedding.tobytes()
            assert {name: content(index)[name] for name in TOYS} == before

    def test_an_index_photo_as_query_is_mapped_as_it_was(self, toy_photos, toy_index):
        (query,), _ = toy_index.queries({"query": toy_photos / "tower/2.png"})
        (member,) = toy_index.members(["tower/2"])
        assert query.embedding.tobytes() == member.embedding.tobytes()

    def test_it_centres(self, toy_index):
        # All photos are in the sample, so the mean of the stored descriptors is what is taken off.
        ids, embeddings = toy_index.collection.embeddings()
        raw = np.stack([image.global_descriptor for image in toy_index.collection.features(ids)])
        centred = raw - raw.mean(0)
        expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)

    def test_pca_whitening(self, toy, toy_photos, tmp_path):
        with Index(tmp_path / "small.db", dimension=5) as index:
            index.add(toy_photos)
            assert index.info()["dimension"] == 5
        with Index(tmp_path / "small.db") as index:
            (query,), _ = index.queries({"query": toy_photos / "tower/2.png"})
            np.testing.assert_allclose(query.embedding, index.members(["tower/2"])[0].embedding, atol=1e-5)
            assert index.search(toy_photos / "tower/2.png").image_ids[0] == "tower/2"

    @pytest.mark.parametrize("dimension", [0, 8, 32])
    def test_dimensions_that_eight_photos_do_not_give(self, toy_photos, tmp_path, dimension):
        with Index(tmp_path / "small.db", dimension=dimension) as index:
            with pytest.raises(
                ValueError, match=f"to {dimension} with 8 photos: give a dimension from 1 to 7"
            ):
                index.add(toy_photos)
            assert not (tmp_path / "small.db").exists()


class TestSearch:
    def test_the_way_round_a_landmark(self, toy, toy_index, tmp_path):
        query = toy.write_photo(tmp_path / "query.png", [0, 1], 6)
        ranking = toy_index.search(query)
        assert ranking.query_id == "query"
        assert [hit.image_id for hit in ranking.hits[:4]] == [f"castle/{step}" for step in range(4)]
        assert [hit.how for hit in ranking.hits] == ["verified"] + 3 * ["bridged"] + 4 * ["similar"]
        assert [hit.bridges for hit in ranking.hits[1:4]] == [
            ("castle/0",), ("castle/0", "castle/1"), ("castle/0", "castle/1", "castle/2"),
        ]  # fmt: skip
        assert toy_index.search(query, limit=3).image_ids == ranking.image_ids[:3]
        assert {hit.how for hit in toy_index.search(query, method="global").hits} == {"similar"}

    def test_no_pair_is_verified_twice(self, toy, toy_index, tmp_path, verified):
        query = toy.write_photo(tmp_path / "query.png", [0, 1], 6)
        verified.clear()
        first = toy_index.search(query)
        assert verified["pairs"] == 8
        assert toy_index.search(query) == first
        members = toy_index.members(TOYS)
        for method in ("verify", "id-qe", "mmst-c"):
            toy_index.retrieval(members).rank(method)
        pairs = len(toy_index.matches)
        toy_index.close()
        with Index(tmp_path / "toy.db") as index:
            assert index.search(query) == first
            assert len(index.matches) == pairs == 28 + 8
        assert verified["pairs"] == 8

    def test_queries_keep_their_order_and_name_what_failed(self, toy, toy_photos, toy_index, tmp_path):
        (tmp_path / "bad.jpg").write_text("no photo")
        photos = {
            "z": toy_photos / "tower/0.png", "bad": tmp_path / "bad.jpg", "a": toy_photos / "castle/0.png",
        }  # fmt: skip
        steps = []
        queries, failed = toy_index.queries(photos, progress=lambda *step: steps.append(step))
        assert [query.query_id for query in queries] == ["z", "a"]
        assert list(failed) == [tmp_path / "bad.jpg"]
        assert steps == [("extract queries", done, 3) for done in (1, 2, 3)]

    def test_a_box_is_all_that_is_searched_with(self, toy, toy_index, tmp_path):
        query = toy.write_photo(tmp_path / "query.png", [0, 1], 6)
        toy.write_photo(query, [20, 21], 6, left=200)
        queries, _ = toy_index.queries({"whole": query, "cut": query}, {"cut": Box(150, 0, 320.4, 240)})
        assert [query.query_id for query in queries] == ["whole", "cut"]
        verified = [
            {hit.image_id for hit in ranking.hits if hit.how == "verified"}
            for ranking in toy_index.retrieval(queries).rank("mmst-c")
        ]
        assert verified == [{"castle/0", "tower/0"}, {"tower/0"}]

    def test_members(self, toy_index):
        rankings = toy_index.retrieval(toy_index.members(["castle/3"])).rank("mmst-c")
        assert [ranking.query_id for ranking in rankings] == ["castle/3"]
        assert [hit.image_id for hit in rankings[0].hits[:3]] == ["castle/2", "castle/1", "castle/0"]
        assert len(rankings[0].hits) == 7
        with pytest.raises(KeyError, match="nobody"):
            toy_index.members(["nobody"])

    def test_unreadable(self, toy_index, tmp_path):
        (tmp_path / "bad.jpg").touch()
        with pytest.raises(PhotoError, match=r"bad\.jpg: the file is empty"):
            toy_index.search(tmp_path / "bad.jpg")

    def test_report(self, toy_photos, toy_index, tmp_path):
        retrieval = toy_index.retrieval(toy_index.members(["castle/3"]))
        toy_index.write_report(tmp_path / "report.html", retrieval, retrieval.rank("mmst-c"), {})
        page = (tmp_path / "report.html").read_text()
        assert all(name in page for name in TOYS)


class TestOpening:
    def test_what_is_not_there_is_not_made(self, toy, tmp_path):
        with Index(tmp_path / "none.db") as index:
            assert len(index) == 0
            with pytest.raises(CollectionMissingError, match=r"there is no .*none\.db: index photos into it"):
                index.info()
            with pytest.raises(CollectionMissingError):
                index.search(toy.write_photo(tmp_path / "query.png", [1]))
            (tmp_path / "empty").mkdir()
            assert index.add(tmp_path / "empty").added == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "query.png"]

    def test_another_collection(self, toy_index, tmp_path):
        toy_index.close()
        with (
            Index(tmp_path / "toy.db", "other") as index,
            pytest.raises(CollectionMissingError, match="has no collection 'other'; it has landbridge"),
        ):
            index.info()

    def test_two_collections_in_one_place(self, toy, toy_photos, toy_index, tmp_path):
        toy_index.close()
        with Index(tmp_path / "toy.db", "other") as index:
            assert index.add(toy_photos / "castle").verified == 6
        with Index(tmp_path / "toy.db") as index:
            assert len(index) == 8

    def test_an_index_of_another_extractor(self, toy, toy_photos, toy_index, tmp_path, monkeypatch):
        toy_index.close()
        monkeypatch.setattr(toy.ToyExtractor, "fingerprint", "toy-2")
        toy.write_photo(toy_photos / "new.png", [5])
        with Index(tmp_path / "toy.db") as index:
            for use in (index.add, index.search):
                with pytest.raises(FingerprintMismatchError, match="was made by toy-1, this is toy-2"):
                    use(toy_photos / "new.png")

    def test_an_extractor_that_is_ready(self, toy, toy_photos, tmp_path):
        ready = toy.ToyExtractor()
        ready.fingerprint = "mine-1"
        with Index(tmp_path / "mine.db", extractor=ready) as index:
            assert len(index.add(toy_photos).added) == 8
            assert index.extractor is ready
            assert index.collection.extractor == "mine-1"
            found = index.search(toy_photos / "castle/0.png")
        assert len(ready.extracted) == 9
        with Index(tmp_path / "mine.db", extractor=ready) as index:
            assert index.search(toy_photos / "castle/0.png") == found
        # One of another fingerprint is refused when the index is opened, and leaves it unlocked.
        with pytest.raises(FingerprintMismatchError, match="was made by mine-1, this is toy-1"):
            Index(tmp_path / "mine.db", extractor=toy.ToyExtractor())
        with (
            Index(tmp_path / "mine.db") as index,
            pytest.raises(FingerprintMismatchError, match="was made by mine-1, this is toy-1"),
        ):
            index.search(toy_photos / "castle/0.png")

    def test_a_moved_index(self, toy_photos, toy_index, tmp_path):
        ranking = toy_index.search(toy_photos / "castle/0.png")
        toy_index.close()
        for name in ("toy.db", "toy.db.matches"):
            shutil.move(tmp_path / name, tmp_path / f"moved-{name}")
        (tmp_path / "moved-toy.db.matches").rename(tmp_path / "moved.db.matches")
        (tmp_path / "moved-toy.db").rename(tmp_path / "moved.db")
        with Index(tmp_path / "moved.db") as index:
            assert index.search(toy_photos / "castle/0.png") == ranking
            assert index.add(toy_photos).verified == 0

    def test_verified_pairs_that_were_lost_are_verified_again(self, toy_photos, toy_index, tmp_path):
        ranking = toy_index.search(toy_photos / "castle/0.png")
        toy_index.close()
        shutil.rmtree(tmp_path / "toy.db.matches")
        with Index(tmp_path / "toy.db") as index:
            assert index.add(toy_photos).verified == 28
            assert index.search(toy_photos / "castle/0.png") == ranking

    def test_closed_it_lets_go_of_all(self, toy, toy_photos, tmp_path):
        first = Index(tmp_path / "toy.db")
        assert first.add(toy_photos / "castle/0.png").verified == 0
        first.close()
        with Index(tmp_path / "toy.db") as second:
            assert second.add(toy_photos / "castle/1.png").verified == 1

    def test_verified_pairs_in_use(self, toy_photos, toy_index, tmp_path):
        other = Index(tmp_path / "other.db", matches=toy_index.matches.folder)
        with other, pytest.raises(MatchStoreError, match="is in use by another process"):
            other.add(toy_photos)
