"""Verified ranking on top of somebody's own collection, on every deployment, whatever they chose."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import landbridge
from connector.client import Client, DataType, MilvusClient
from connector.errors import RefusedError
from landbridge.attached import AttachedPhotos

TOY = Path(__file__).parent.parent / "landbridge" / "toy_extractor.py"
HOSTILE = ['a"b', "it's", "back\\slash", '") or (pk != "', "line\nbreak", "Köln 大教堂 🏛", " ", "%_", "{x}"]
SIMILARITIES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
PHOTOS = ["tower/0", "tower/1", "castle/0", "tower/2", "castle/1", "tower/3", "castle/2", "castle/3", "lost"]
"""By falling similarity to the query, which shows what castle/0 shows; the last has no photo."""
CASTLES, TOWERS = [2, 4, 6, 7], [0, 1, 3, 5]
READS = {
    "has_collection", "describe_collection", "list_indexes", "describe_index", "get_load_state", "query",
    "search", "list_partitions",
}  # fmt: skip


@dataclass
class Theirs:
    """What somebody chose when they made their collection, and a client of their own."""

    name: str
    key: int
    metric: str
    norms: tuple[float, ...]
    auto_id: bool = False
    ids: list[Any] = field(default_factory=list)
    client: Any = None
    folder: Any = None

    @property
    def query_vector(self) -> np.ndarray:
        return np.array([self.norms[0], 0, 0, 0], np.float32)

    def make(self, client: MilvusClient, folder: Path) -> None:
        self.client, self.folder = client, folder
        fields = MilvusClient.create_schema(auto_id=self.auto_id, enable_dynamic_field=True)
        size = {"max_length": 64} if self.key == DataType.VARCHAR else {}
        fields.add_field("pk", self.key, is_primary=True, **size)
        fields.add_field("row", DataType.INT64)
        fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=4)
        index = MilvusClient.prepare_index_params()
        index.add_index("embedding", index_type="FLAT", metric_type=self.metric)
        client.create_collection(self.name, schema=fields, timeout=20)
        client.create_partition(self.name, "towers", timeout=20)
        client.create_index(self.name, index, timeout=20)
        client.load_collection(self.name, timeout=20)
        rows = []
        for row, (similarity, photo) in enumerate(zip(SIMILARITIES, PHOTOS, strict=True)):
            norm = self.norms[row % len(self.norms)]
            vector = [similarity * norm, (1 - similarity**2) ** 0.5 * norm, 0, 0]
            rows.append({"row": row, "embedding": vector, "url": f"{photo}.png", "year": 1900 + row})
            if not self.auto_id:
                rows[-1]["pk"] = HOSTILE[row] if self.key == DataType.VARCHAR else (row - 4) * 10**16
        self.ids = [None] * len(rows)
        for partition, chosen in (("towers", TOWERS), ("_default", [*CASTLES, 8])):
            some = [rows[row] for row in chosen]
            given = client.insert(self.name, some, partition_name=partition, timeout=20)["ids"]
            for row, id_ in zip(chosen, given, strict=True):
                self.ids[row] = id_

    def told(self) -> list[Any]:
        """Every row, and all that Milvus tells of the collection."""
        rows = self.client.query(
            self.name,
            filter="row >= 0",
            output_fields=["*"],
            limit=100,
            consistency_level="Strong",
            timeout=20,
        )
        assert len(rows) == len(PHOTOS)
        return [
            sorted((sorted(row.items(), key=lambda item: item[0]) for row in rows), key=repr),
            self.client.describe_collection(self.name, timeout=20),
            [self.client.describe_index(self.name, name, timeout=20)
             for name in self.client.list_indexes(self.name, timeout=20)],
            self.client.get_load_state(self.name, timeout=20),
            self.client.list_partitions(self.name, timeout=20),
            self.client.get_collection_stats(self.name, timeout=20),
        ]  # fmt: skip

    def rows(self, ranking: landbridge.AttachedRanking) -> list[int]:
        return [self.ids.index(id_) for id_ in ranking.ids]


KINDS = [
    Theirs("rerank_text", DataType.VARCHAR, "COSINE", (3.0, 0.01, 40.0)),
    Theirs("rerank_number", DataType.INT64, "L2", (2.5,)),
    Theirs("rerank_auto", DataType.INT64, "IP", (1.0,), auto_id=True),
]


@pytest.fixture(scope="module")
def toy() -> Any:
    spec = importlib.util.spec_from_file_location("toy_extractor", TOY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos_folder(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy.write_photos(folder / "photos")
    toy.write_photo(folder / "query.png", range(4), variant=7)
    return folder


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def theirs(request: pytest.FixtureRequest, deployment: Any, photos_folder: Path) -> Iterator[Theirs]:
    client = MilvusClient(deployment.uri, token=deployment.token, timeout=20)
    request.param.make(client, photos_folder)
    yield request.param
    client.drop_collection(request.param.name, timeout=20)
    client.close()


@pytest.fixture
def attached(
    theirs: Theirs, deployment: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AttachedPhotos]:
    """Attached to; nothing of theirs may be other than read, nor differ afterwards."""
    before, others = theirs.told(), theirs.client.list_collections(timeout=20)
    call = Client.call

    def watched(self: Client, operation: str, **arguments: Any) -> Any:
        assert arguments.get("collection_name") != theirs.name or operation in READS
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", watched)
    with landbridge.attach(
        deployment.uri,
        theirs.name,
        "embedding",
        "pk",
        photo_field="url",
        roots=theirs.folder / "photos",
        extractor=toy.ToyExtractor(),
        token=deployment.token,
        matches=tmp_path / "matches",
    ) as photos:
        yield photos
        photos.remove()
    assert theirs.told() == before
    assert sorted(theirs.client.list_collections(timeout=20)) == sorted(others)


def test_their_top_candidates_reranked(attached: AttachedPhotos, theirs: Theirs) -> None:
    query = theirs.folder / "query.png"
    ids = attached.collection.search(theirs.query_vector[None], 9).ids[0]
    assert [theirs.ids.index(id_) for id_ in ids] == list(range(9))
    ranking = attached.rerank(query, ids, output_fields=["year", "none"])
    assert theirs.rows(ranking)[:4] == CASTLES
    assert sorted(theirs.rows(ranking)) == list(range(9))
    assert [type(id_) for id_ in ranking.ids] == [type(theirs.ids[0])] * 9
    assert ranking.hits[3].bridges == (str(theirs.ids[4]), str(theirs.ids[6]))
    assert ranking.hits[0].fields == {"pk": theirs.ids[2], "year": 1902, "none": None}
    assert ranking.unavailable.keys() == {theirs.ids[8]}
    assert "there is no photo 'lost.png'" in ranking.unavailable[theirs.ids[8]]
    assert attached.rerank(query, ids, vector=theirs.query_vector, method="global").ids == tuple(ids)
    # As good without the vector, and from what is kept.
    again = attached.rerank(query, ids, vector=theirs.query_vector)
    assert theirs.rows(again)[:4] == CASTLES
    assert sorted(attached.extractor.extracted) == sorted([*map(str, theirs.ids[:8]), *["query"] * 3])


def test_search_with_their_filters_and_partitions(attached: AttachedPhotos, theirs: Theirs) -> None:
    added = attached.add()
    assert (added.added, list(added.failed)) == (8, [theirs.ids[8]])
    query = theirs.folder / "query.png"
    found = attached.search(query, theirs.query_vector, 4, output_fields=["row"])
    assert theirs.rows(found) == CASTLES
    assert [hit.fields["row"] for hit in found.hits] == CASTLES
    some = attached.search(query, theirs.query_vector, filter="year != 1906 and row in [0, 2, 4, 6, 7]")
    assert theirs.rows(some) == [2, 4, 7, 0]
    assert some.hits[2].bridges == (str(theirs.ids[4]), str(theirs.ids[6]))
    winter = attached.search(query, theirs.query_vector, partitions=["towers"], filter="row > 0")
    assert set(theirs.rows(winter)) == {1, 3, 5}
    by_id = attached.search(image=theirs.ids[2], limit=3)
    assert theirs.rows(by_id) == CASTLES[1:]
    with pytest.raises(RefusedError):
        attached.search(query, theirs.query_vector, filter="row ><")


one_kind = pytest.mark.parametrize("theirs", KINDS[:1], indirect=True, ids=lambda kind: kind.name)


@one_kind
def test_bridges_lead_beyond_what_their_search_finds(
    attached: AttachedPhotos, theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landbridge.attached.CANDIDATES", 4)
    attached.add(filter="row < 8")
    query = theirs.folder / "query.png"
    assert set(theirs.rows(attached.search(query, theirs.query_vector, 4, method="verify"))) == {0, 1, 2, 3}
    assert theirs.rows(attached.search(query, theirs.query_vector, 4)) == CASTLES
    kept = attached.search(query, theirs.query_vector, 4, filter="row != 6 and row != 4")
    assert theirs.rows(kept)[:2] == [2, 7]


@one_kind
def test_adding_page_by_page(
    attached: AttachedPhotos, theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landbridge.attached._ROWS_PER_PAGE", 2)
    assert attached.add(partitions=["towers"]).added == 4
    added = attached.add()
    assert (added.added, added.unchanged, len(added.failed)) == (4, 4, 1)
    assert attached.collection.digests().keys() == set(theirs.ids[:8])
    assert attached.collection.digests(theirs.ids[7:]).keys() == {theirs.ids[7]}
    assert attached.collection.count("row > 6") == 2
    pages = list(attached.collection.scan(["row"], filter="row < 5", partitions=["towers"], rows=2))
    assert sorted(line["row"] for _, _, lines in pages for line in lines) == [0, 1, 3]
    assert max(len(ids) for ids, _, _ in pages) <= 2
