"""Re-indexing by another extractor, on Milvus Lite over toy photos."""

import importlib.util
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from connector.alias import Aliases
from connector.choices import Choices, tenants
from connector.collection import Collection
from connector.errors import (
    CollectionMissingError,
    InvalidInputError,
    SchemaMismatchError,
)
from landbridge import Index, reindex
from landbridge.reindexing import drop, roll_back, switch

_spec = importlib.util.spec_from_file_location("toy_reindex", Path(__file__).with_name("toy_reindex.py"))
new_toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(new_toy)


@pytest.fixture(autouse=True)
def brief_waits(monkeypatch):
    """pymilvus waits half a second for each index, which Milvus Lite makes at once."""
    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(min(seconds, 0.01)))
    monkeypatch.setattr("pymilvus.client.grpc_handler.time", clock)


def content(uri, name, tenant=""):
    """Digests and exact embeddings by id, and the verified pairs by ids."""
    with Index(uri, name, tenant=tenant) as index:
        ids, embeddings = index.collection.embeddings()
        records = index.collection.records(ids)
        places, _ = index.matches.among(index.library.keys)
        images = {
            record.image_id: (record, embedding.tobytes())
            for record, embedding in zip(records, embeddings, strict=True)
        }
        assert not list(index.collection.staged())
        return images, {tuple(sorted((ids[i], ids[j]))) for i, j in places.tolist()}


@pytest.fixture
def old(toy_photos, toy_template, tmp_path, monkeypatch):
    """A collection `landbridge` of the old extractor at toy.db, behind the alias `live`."""
    monkeypatch.setattr("extractor.registry.EXTRACTORS", new_toy.EXTRACTORS)
    for name in ("toy.db", "toy.db.matches"):
        shutil.copytree(toy_template / name, tmp_path / name)
    uri = tmp_path / "toy.db"
    with Index(uri) as index:
        assert index.add(toy_photos).unchanged == 8
    switch(uri, "live", "landbridge")
    with Aliases(uri):  # so that Milvus Lite is started once
        yield uri


@pytest.fixture
def fresh(old, toy_photos):
    """What indexing the photos by the new extractor gives."""

    def made():
        with Index(old, "fresh", extractor="new-toy") as index:
            index.add(toy_photos)
        return content(old, "fresh")

    return made


def behind(uri):
    with Aliases(uri) as aliases:
        return aliases.list()


class TestAliases:
    def test_the_new_collection_is_as_if_indexed_by_it(self, old, fresh):
        before = content(old, "landbridge")
        steps = []
        done = reindex(old, "live", "new-toy", progress=lambda *step: steps.append(step))
        assert (done.old, done.new, done.behind, done.switched) == ("landbridge", "live_2", "live_2", True)
        assert (done.photos, done.added, done.removed, done.verified, done.missing) == (8, 8, 0, 28, {})
        assert {step for step, _, _ in steps} >= {"extract", "verify index photos"}
        assert behind(old) == {"live": "live_2"}
        assert content(old, "live") == fresh()
        assert content(old, "landbridge") == before
        with Index(old, "live") as index:
            assert (index.collection.extractor, index.collection.dimension) == ("new-toy-1", 48)

    def test_again_there_is_nothing_to_do(self, old, monkeypatch):
        reindex(old, "live", "new-toy")
        monkeypatch.setattr(new_toy.NewToyExtractor, "extract", None)
        done = reindex(old, "live", "new-toy")
        assert (done.old, done.new, done.switched, done.photos, done.added) == (
            "live_2",
            "live_2",
            True,
            8,
            0,
        )
        assert reindex(old, "live", new_toy.NewToyExtractor()).old == "live_2"

    def test_back_and_forth(self, old, toy, toy_photos):
        reindex(old, "live", "new-toy")
        toy.write_photo(toy_photos / "late.png", [60, 61])
        with Index(old, "live") as index:
            index.add(toy_photos)
        assert roll_back(old, "live") == ("live_2", "landbridge")
        assert behind(old) == {"live": "landbridge"}
        with pytest.raises(InvalidInputError, match="'live' was not switched to 'landbridge' from another"):
            roll_back(old, "live")
        # What was behind the alias is left alone, with the photo that the older one never had.
        done = reindex(old, "live", "new-toy")
        assert (done.old, done.new, done.photos) == ("landbridge", "live_3", 8)
        assert len(content(old, "live_2")[0]) == 9
        assert switch(old, "live", "live_2") == "live_3"
        assert len(content(old, "live")[0]) == 9
        # And back to the first extractor, which is not taken for the collection that it once made.
        done = reindex(old, "live", "default")
        assert (done.old, done.new, done.photos) == ("live_2", "live_4", 9)

    def test_looking_first(self, old, fresh):
        done = reindex(old, "live", "new-toy", switch=False)
        assert (done.new, done.behind, done.switched, done.added) == ("live_2", "landbridge", False, 8)
        assert behind(old) == {"live": "landbridge"}
        assert content(old, "live_2") == fresh()
        done = reindex(old, "live", "new-toy")
        assert (done.new, done.switched, done.added, done.verified) == ("live_2", True, 0, 0)

    def test_what_came_and_went_meanwhile(self, old, toy, toy_photos, fresh):
        reindex(old, "live", "new-toy", switch=False)
        toy.write_photo(toy_photos / "late.png", [60, 61])
        toy.write_photo(toy_photos / "castle/1.png", [70, 71])
        (toy_photos / "tower/3.png").unlink()
        with Index(old) as index:
            index.add(toy_photos)
            index.collection.delete(["tower/3"])
        done = reindex(old, "live", "new-toy")
        assert (done.photos, done.added, done.removed, done.missing) == (8, 2, 1, {})
        images = content(old, "live")[0]
        assert {name: record.digest for name, (record, _) in images.items()} == {
            name: record.digest for name, (record, _) in fresh()[0].items()
        }

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_what_came_at_the_switch(self, old, toy, toy_photos, monkeypatch, moment):
        toy.write_photo(toy_photos / "late.png", [60, 61])
        switched = Aliases.switch

        def busy(self, *names):
            found = switched(self, *names) if moment == "after" else None
            with Index(old) as writer:
                assert writer.add(toy_photos).added == ["late"]
            return switched(self, *names) if moment == "before" else found

        monkeypatch.setattr(Aliases, "switch", busy)
        done = reindex(old, "live", "new-toy")
        assert (done.photos, done.added, done.switched) == (9, 9, True)
        assert "late" in content(old, "live")[0]

    def test_one_who_keeps_adding_does_not_keep_it(self, old, toy, toy_photos, monkeypatch):
        monkeypatch.setattr("landbridge.reindexing._PASSES", 3)
        add, added = Index.add, []

        def busy(self, photos, *progress):
            found = add(self, photos, *progress)
            if self.name == "live_2":
                added.append(f"late{len(added)}")
                toy.write_photo(toy_photos / f"{added[-1]}.png", [60, 61], len(added))
                with Index(old) as writer:
                    add(writer, toy_photos)
            return found

        monkeypatch.setattr(Index, "add", busy)
        done = reindex(old, "live", "new-toy")
        assert (done.switched, len(added), done.photos) == (True, 4, 8 + 3)


class TestMissing:
    def test_nothing_is_dropped_unasked(self, old, toy_photos, tmp_path):
        gone, bad = toy_photos / "castle/0.png", toy_photos / "tower/1.png"
        gone.rename(tmp_path / "kept.png")
        bad.write_text("no photo")
        done = reindex(old, "live", "new-toy")
        assert (done.switched, done.behind, done.photos) == (False, "landbridge", 6)
        assert done.missing.keys() == {gone, bad}
        assert "No such file" in done.missing[gone]
        assert "not a photo" in done.missing[bad]
        (tmp_path / "kept.png").rename(gone)
        done = reindex(old, "live", "new-toy")
        assert (done.switched, done.added, list(done.missing)) == (False, 1, [bad])
        done = reindex(old, "live", "new-toy", allow_missing=True)
        assert (done.switched, done.photos, list(done.missing)) == (True, 7, [bad])

    def test_one_that_was_done_before_it_went(self, old, toy_photos):
        reindex(old, "live", "new-toy", switch=False)
        (toy_photos / "castle/0.png").unlink()
        done = reindex(old, "live", "new-toy")
        assert (done.switched, done.missing, done.photos) == (True, {}, 8)

    @pytest.mark.parametrize("allow", [False, True])
    def test_all_are_gone(self, old, toy_photos, allow):
        shutil.rmtree(toy_photos)
        with pytest.raises(InvalidInputError, match="no photo of 'landbridge' is where it was: bring them"):
            reindex(old, "live", "new-toy", allow_missing=allow)
        assert behind(old) == {"live": "landbridge"}


class TestPlainCollection:
    def test_it_is_not_switched(self, old, fresh):
        before = content(old, "landbridge")
        done = reindex(old, "landbridge", "new-toy")
        assert (done.new, done.behind, done.switched) == ("landbridge_2", "landbridge", False)
        assert content(old, "landbridge_2") == fresh()
        assert content(old, "landbridge") == before
        again = reindex(old, "landbridge", "new-toy")
        assert (again.new, again.added) == ("landbridge_2", 0)

    def test_renamed_when_asked(self, old, fresh):
        before = content(old, "landbridge")
        with pytest.raises(InvalidInputError, match="live leads to collection 'landbridge': switch that"):
            reindex(old, "landbridge", "new-toy", rename=True)
        assert content(old, "landbridge") == before
        with Aliases(old) as aliases:
            aliases.drop("live")
        done = reindex(old, "landbridge", "new-toy", rename=True)
        assert (done.old, done.new, done.behind) == ("landbridge_1", "landbridge_2", "landbridge_2")
        assert (done.added, behind(old)) == (8, {"landbridge": "landbridge_2"})
        assert content(old, "landbridge") == fresh()
        assert content(old, "landbridge_1") == before
        assert roll_back(old, "landbridge") == ("landbridge_2", "landbridge_1")
        assert content(old, "landbridge") == before

    def test_renaming_that_was_cut_short(self, old, fresh, monkeypatch):
        """Wherever it stops, the same again ends it."""
        from connector.client import Client

        with Aliases(old) as aliases:
            aliases.drop("live")
        before, call, left = content(old, "landbridge"), Client.call, [0]

        def stopping(self, operation, **arguments):
            if operation in ("rename_collection", "create_alias"):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
            return call(self, operation, **arguments)

        monkeypatch.setattr(Client, "call", stopping)
        for allowed in (0, 1, 1, 1):
            left[0] = allowed
            with pytest.raises(KeyboardInterrupt):
                reindex(old, "landbridge", "new-toy", rename=True)
        left[0] = 1
        done = reindex(old, "landbridge", "new-toy", rename=True)
        assert (done.new, done.switched, done.added) == ("landbridge_2", True, 0)
        assert content(old, "landbridge") == fresh()
        assert content(old, "landbridge_1") == before
        assert roll_back(old, "landbridge") == ("landbridge_2", "landbridge_1")


class TestChoices:
    def test_they_are_those_of_the_old_collection(self, toy, toy_photos, tmp_path, monkeypatch):
        monkeypatch.setattr("extractor.registry.EXTRACTORS", new_toy.EXTRACTORS)
        uri = tmp_path / "choices.db"
        hnsw = {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 8, "efConstruction": 40}}
        with Index(uri, "old", dimension=5, index_params=hnsw, consistency_level="Bounded") as index:
            index.add(toy_photos)
        done = reindex(uri, "old", "new-toy")
        made = Choices.of(uri, done.new)
        assert (made.dimension, made.index_params, made.consistency_level) == (5, hnsw, "Bounded")
        flat = {"index_type": "FLAT"}
        assert reindex(uri, "old", "new-toy", into="old_2").added == 0
        with pytest.raises(InvalidInputError, match="there is 'old_2' already, and it was not begun so"):
            reindex(uri, "old", "new-toy", into="old_2", index_params=flat)
        done = reindex(uri, "old", "new-toy", into="other", dimension=4, index_params=flat)
        assert reindex(uri, "old", "new-toy").new == "other"
        made = Choices.of(uri, "other")
        assert (done.new, made.dimension, made.index_params["index_type"]) == ("other", 4, "FLAT")
        assert made.consistency_level == "Bounded"

    def test_local_descriptors_have_rows_as_before(self, old):
        with Index(old) as index:
            index.build_local_index()
            rows = index.collection.local.info()
        reindex(old, "live", "new-toy")
        with Index(old, "live") as index:
            assert index.collection.local.info() == rows | {"name": "live_2_local"}
        drop(old, "landbridge")
        with Aliases(old) as aliases:
            assert {name for name in aliases.names() if "local" in name} == {"live_2_local"}

    def test_another_index_by_the_same_extractor(self, old):
        done = reindex(old, "live", "default", index_params={"index_type": "AUTOINDEX"})
        assert (done.new, done.switched, done.photos) == ("live_2", True, 8)
        with Index(old, "live") as index:
            assert index.collection.extractor == "toy-1"
        assert not reindex(old, "live", "default", index_params={"index_type": "AUTOINDEX"}).added
        assert not reindex(old, "live", "default").added
        assert reindex(old, "live", "default", dimension=5).added == 8

    def test_another_extractor_before_the_first_is_done(self, old, monkeypatch):
        reindex(old, "live", "new-toy", switch=False)
        other = new_toy.NewToyExtractor()
        other.fingerprint = "other-1"
        done = reindex(old, "live", other)
        assert (done.new, done.switched) == ("live_3", True)

    def test_a_name_that_is_taken(self, old):
        for taken in ("live", "landbridge_features"):
            with pytest.raises(InvalidInputError, match=f"there is '{taken}' already, and it was not"):
                reindex(old, "live", "new-toy", into=taken)
        assert reindex(old, "live", "new-toy", into="mine").new == "mine"

    def test_every_tenant(self, toy, toy_photos, tmp_path, monkeypatch):
        monkeypatch.setattr("extractor.registry.EXTRACTORS", new_toy.EXTRACTORS)
        uri = tmp_path / "shared.db"
        for tenant in ("ada", "bob"):
            with Index(uri, "old", tenant=tenant) as index:
                index.add(toy_photos if tenant == "ada" else toy_photos / "castle")
        switch(uri, "live", "old")
        (toy_photos / "castle/0.png").rename(tmp_path / "kept.png")
        done = reindex(uri, "live", "new-toy")
        assert (done.switched, done.photos, len(done.missing)) == (False, 7 + 3, 1)
        (tmp_path / "kept.png").rename(toy_photos / "castle/0.png")
        done = reindex(uri, "live", "new-toy")
        assert (done.switched, done.photos, done.added) == (True, 8 + 4, 2)
        assert tenants(uri, "live") == ["ada", "bob"]
        assert [len(pairs) for _, pairs in (content(uri, "live", t) for t in ("ada", "bob"))] == [28, 6]
        assert reindex(uri, "live", "new-toy").photos == 12


class TestDrop:
    def test_not_what_an_alias_leads_to(self, old):
        reindex(old, "live", "new-toy")
        for name, message in [
            ("live_2", "live leads to collection 'live_2': switch that to another one first"),
            ("live", "'live' is an alias of 'live_2'"),
        ]:
            with pytest.raises(InvalidInputError, match=message):
                drop(old, name)
        with pytest.raises(CollectionMissingError):
            drop(old, "nothing")
        with pytest.raises(SchemaMismatchError, match="or a part of one: it is left alone"):
            drop(old, "landbridge_features")
        whole = content(old, "live")
        drop(old, "landbridge")
        assert content(old, "live") == whole
        with Aliases(old) as aliases:
            assert not [name for name in aliases.names() if name.startswith("landbridge")]
        assert [path.name for path in Path(f"{old}.matches").iterdir()] == ["live_2"]
        with pytest.raises(CollectionMissingError, match="no collection 'landbridge'"):
            roll_back(old, "live")

    def test_cut_short(self, old, monkeypatch):
        from connector.client import Client

        reindex(old, "live", "new-toy")
        call, dropped = Client.call, []

        def stopping(self, operation, **arguments):
            if operation == "drop_collection" and len(dropped) == 1:
                raise KeyboardInterrupt
            dropped.extend([operation] if operation == "drop_collection" else [])
            return call(self, operation, **arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Client, "call", stopping)
            with pytest.raises(KeyboardInterrupt):
                drop(old, "landbridge")
        drop(old, "landbridge")
        with Aliases(old) as aliases:
            assert not [name for name in aliases.names() if name.startswith("landbridge")]

    def test_somebody_elses(self, old):
        with Collection.open(old) as collection:
            client = collection._client
            client.call("create_collection", collection_name="theirs", dimension=4)
            with pytest.raises(SchemaMismatchError):
                drop(old, "theirs")
            assert "theirs" in client.call("list_collections")


def test_an_empty_name_and_an_empty_collection(old):
    with pytest.raises(CollectionMissingError, match="neither an alias nor a collection 'nobody'"):
        reindex(old, "nobody", "new-toy")
    with pytest.raises(CollectionMissingError):
        reindex(old, "nobody", "new-toy", rename=True)
    with pytest.raises(ValueError, match="unknown extractor 'nope'"):
        reindex(old, "live", "nope")
    for tenant in ("", "ada"):
        name = f"empty{tenant}"
        Collection.create(old, name, dimension=4, extractor="toy-1", tenant=tenant).close()
        with pytest.raises(InvalidInputError, match=f"'{name}' holds no photos: index some"):
            reindex(old, name, "new-toy")
    with Collection.open(old) as collection:
        np.testing.assert_equal(len(collection), 8)
