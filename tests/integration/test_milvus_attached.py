"""Somebody's own collection: read and searched, given local features, and left byte for byte as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from connector.alias import Aliases
from connector.attached import AttachedCollection
from connector.client import Client, DataType, MilvusClient
from connector.errors import (
    CollectionMissingError,
    CorruptPayloadError,
    DimensionMismatchError,
    FingerprintMismatchError,
    ImagesMissingError,
    InvalidInputError,
    NotLoadedError,
    RefusedError,
    SchemaMismatchError,
)
from extractor.features import ImageFeatures

Photo = Callable[..., ImageFeatures]

ROWS, DIMENSION = 60, 8
HOSTILE = ['a"b', "it's", "back\\slash", '") or (pk != "', "line\nbreak", "Köln 大教堂 🏛", " ", "%_"]
READS = {
    "has_collection", "describe_collection", "list_indexes", "describe_index", "get_load_state", "query",
    "search", "list_partitions",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What somebody chose when they made their collection."""

    name: str
    key: int
    metric: str
    auto_id: bool = False


KINDS = [
    Kind("theirs_auto", DataType.INT64, "L2", auto_id=True),
    Kind("theirs_text", DataType.VARCHAR, "COSINE"),
    Kind("theirs_number", DataType.INT64, "IP"),
]


@dataclass(frozen=True)
class Theirs:
    """Their collection, and a client of their own."""

    kind: Kind
    client: MilvusClient
    ids: list[Any]
    vectors: np.ndarray

    def checksum(self) -> str:
        """Of every row, and of all that Milvus tells of the collection."""
        digest = hashlib.sha256()
        rows: list[dict[str, Any]] = self.client.query(
            self.kind.name, filter="row >= 0", output_fields=["*"], limit=1000,
            consistency_level="Strong", timeout=20,
        )  # fmt: skip
        assert len(rows) == len(self.ids)
        for row in sorted(rows, key=lambda row: row["row"]):
            digest.update(repr(sorted(row.items())).encode())
        for told in (
            self.client.describe_collection(self.kind.name, timeout=20),
            [self.client.describe_index(self.kind.name, name, timeout=20) for name in
             sorted(self.client.list_indexes(self.kind.name, timeout=20))],
            self.client.get_load_state(self.kind.name, timeout=20),
            self.client.list_partitions(self.kind.name, timeout=20),
            self.client.get_collection_stats(self.kind.name, timeout=20),
        ):  # fmt: skip
            digest.update(repr(told).encode())
        return digest.hexdigest()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def theirs(request: pytest.FixtureRequest, deployment) -> Iterator[Theirs]:
    kind: Kind = request.param
    client = MilvusClient(deployment.uri, token=deployment.token, timeout=20)
    fields = MilvusClient.create_schema(auto_id=kind.auto_id, enable_dynamic_field=True)
    size = {"max_length": 64} if kind.key == DataType.VARCHAR else {}
    fields.add_field("pk", kind.key, is_primary=True, **size)
    fields.add_field("row", DataType.INT64)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIMENSION)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="FLAT", metric_type=kind.metric)
    client.create_collection(kind.name, schema=fields, timeout=20)
    client.create_partition(kind.name, "winter", timeout=20)
    client.create_index(kind.name, index, timeout=20)
    client.load_collection(kind.name, timeout=20)
    vectors = np.random.default_rng(5).normal(size=(ROWS, DIMENSION)).astype(np.float32)
    if kind.metric == "IP":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        {
            "row": i,
            "embedding": vector,
            "url": f"https://photos.example/{i}.jpg",
            "year": 1900 + i,
        }
        for i, vector in enumerate(vectors)
    ]
    if not kind.auto_id:
        for i, row in enumerate(rows):
            number = (i - 20) * 10**16
            text = HOSTILE[i] if i < len(HOSTILE) else f"photo {i}"
            row["pk"] = text if kind.key == DataType.VARCHAR else number
    ids = []
    for partition, part in (("_default", rows[:40]), ("winter", rows[40:])):
        ids += client.insert(kind.name, part, partition_name=partition, timeout=20)["ids"]
        if kind is KINDS[1]:
            client.flush(kind.name, timeout=20)  # so that a server has sealed rows as well
    yield Theirs(kind, client, ids, vectors)
    client.drop_collection(kind.name, timeout=20)
    client.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    made: list[tuple[str, dict[str, Any]]] = []
    call = Client.call

    def recorded(self: Client, operation: str, **arguments: Any) -> Any:
        made.append((operation, arguments))
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", recorded)
    return made


@pytest.fixture
def attached(deployment, theirs: Theirs, calls) -> Iterator[AttachedCollection]:
    before = theirs.checksum()
    with AttachedCollection(deployment.uri, theirs.kind.name, token=deployment.token) as opened:
        yield opened
        opened.drop_local()
    assert theirs.checksum() == before
    done = {operation for operation, arguments in calls
            if arguments.get("collection_name") == theirs.kind.name}  # fmt: skip
    assert done <= READS
    assert not [name for name in theirs.client.list_collections(timeout=20) if name.endswith("_landbridge")]


def expected(theirs: Theirs, query: np.ndarray) -> np.ndarray:
    """Scores of all rows in double precision."""
    rows, query = theirs.vectors.astype(np.float64), query.astype(np.float64)
    if theirs.kind.metric == "L2":
        return ((rows - query) ** 2).sum(1)
    product = rows @ query
    if theirs.kind.metric == "IP":
        return product
    return product / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)


def test_what_it_finds_out(attached: AttachedCollection, theirs: Theirs) -> None:
    assert (attached.name, attached.id_field, attached.vector_field) == (theirs.kind.name, "pk", "embedding")
    assert (attached.dimension, attached.metric, len(attached)) == (DIMENSION, theirs.kind.metric, ROWS)
    assert (attached.companion, attached.extractor) == (f"{theirs.kind.name}_landbridge", None)


def test_search_as_their_own(attached: AttachedCollection, theirs: Theirs) -> None:
    queries = theirs.vectors[[3, 45]] + np.float32(0.01)
    ids, scores, fields = attached.search(queries, 10, output_fields=["url", "year", "row", "nothing"])
    for place, query in enumerate(queries):
        truth = expected(theirs, query)
        order = np.argsort(truth if theirs.kind.metric == "L2" else -truth)[:10]
        np.testing.assert_allclose(scores[place], truth[order], atol=1e-4)
        found = [theirs.ids.index(id_) for id_ in ids[place]]
        np.testing.assert_allclose(truth[found], truth[order], atol=1e-4)
        assert fields[place] == [
            {"url": f"https://photos.example/{i}.jpg", "year": 1900 + i, "row": i, "nothing": None}
            for i in found
        ]
    assert (ids[0][0], ids[1][0]) == (theirs.ids[3], theirs.ids[45])
    assert all(line.dtype == np.float32 for line in scores)


def test_their_filters_and_partitions(attached: AttachedCollection, theirs: Theirs) -> None:
    query = theirs.vectors[:1]
    found = attached.search(query, 50, filter="year >= 1950 and row != 55", output_fields=["year"])
    assert {theirs.ids.index(id_) for id_ in found.ids[0]} == {50, 51, 52, 53, 54, 56, 57, 58, 59}
    assert all(row["year"] >= 1950 for row in found.fields[0])
    found = attached.search(query, 50, partitions=["winter"])
    assert {theirs.ids.index(id_) for id_ in found.ids[0]} == set(range(40, 60))
    assert found.fields == [[{}] * 20]
    found = attached.search(query, 50, partitions=["winter", "_default"], filter="row < 41")
    assert {theirs.ids.index(id_) for id_ in found.ids[0]} == set(range(41))
    assert attached.search(query, 50, filter="row < 0").ids == [[]]
    with pytest.raises(RefusedError, match="refused search"):
        attached.search(query, 50, filter="row ><")
    with pytest.raises(InvalidInputError, match="has no partition 'summer'; it has _default, winter"):
        attached.search(query, 50, partitions=["winter", "summer"])


def test_queries_that_do_not_fit(attached: AttachedCollection) -> None:
    with pytest.raises(DimensionMismatchError, match=r"shape \[N, 8\], got \[1, 9\]: use the model"):
        attached.search(np.zeros((1, 9), np.float32), 5)
    with pytest.raises(InvalidInputError, match="limit must be 1 to 16384"):
        attached.search(np.zeros((1, 8), np.float32), 0)
    assert attached.search(np.zeros((0, 8), np.float32), 5) == ([], [], [])


def test_rows_and_vectors_by_id(attached: AttachedCollection, theirs: Theirs) -> None:
    wanted = [theirs.ids[i] for i in (59, 0, 3, 0, 7)]
    np.testing.assert_array_equal(attached.vectors(wanted), theirs.vectors[[59, 0, 3, 0, 7]])
    assert [row["url"] for row in attached.rows(wanted[:2], ["url"])] == [
        "https://photos.example/59.jpg", "https://photos.example/0.jpg",
    ]  # fmt: skip
    stranger = "nobody" if isinstance(wanted[0], str) else -5
    with pytest.raises(ImagesMissingError, match=r"does not hold 1 of 2 ids: ('nobody'|-5)$"):
        attached.vectors([wanted[0], stranger])


def test_scan_in_pages(attached: AttachedCollection, theirs: Theirs) -> None:
    pages = list(attached.scan(["url", "row"], rows=7))
    assert max(len(ids) for ids, _, _ in pages) <= 7
    ids = [id_ for page, _, _ in pages for id_ in page]
    assert sorted(ids, key=theirs.ids.index) == theirs.ids
    assert ids == sorted(ids)
    rows = [theirs.ids.index(id_) for id_ in ids]
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors, _ in pages]), theirs.vectors[rows])
    assert [line["row"] for _, _, lines in pages for line in lines] == rows
    few = list(attached.scan(filter="row < 5", rows=2))
    assert sorted(theirs.ids.index(id_) for page, _, _ in few for id_ in page) == [0, 1, 2, 3, 4]
    assert few[0][2] == [{}, {}]


def test_local_features_beside_theirs(
    deployment, attached: AttachedCollection, theirs: Theirs, photo: Photo
) -> None:
    ids = theirs.ids[:9]
    images = [photo(f"{i}", seed=i, keypoints=[0, 30, 1700][i % 3]) for i in range(9)]
    assert attached.missing(ids) == ids
    with pytest.raises(ImagesMissingError, match="holds no local features of 9 of 9 images"):
        attached.local(ids)

    attached.put_local(ids[:6], images[:6])
    assert attached.missing(ids) == ids[6:]
    assert attached.extractor == "xfeat@1"
    with AttachedCollection(deployment.uri, theirs.kind.name, token=deployment.token) as later:
        assert later.extractor == "xfeat@1"
        assert later.missing([*ids, ids[8]]) == [*ids[6:], ids[8]]
        later.put_local(ids[6:], images[6:])
        stored = later.local([*reversed(ids), ids[2]])
    for id_, image, back in zip(
        [*reversed(ids), ids[2]], [*reversed(images), images[2]], stored, strict=True
    ):
        assert (back.image_id, back.extractor, back.size) == (str(id_), "xfeat@1", (640, 480))
        np.testing.assert_array_equal(back.local.descriptors, image.local.descriptors)

    attached.put_local(ids[:1], [photo("new", seed=99, keypoints=5)])
    assert len(attached.local(ids[:1])[0].local) == 5
    assert attached.missing(ids) == []


one_kind = pytest.mark.parametrize("theirs", KINDS[:1], indirect=True, ids=lambda kind: kind.name)


@one_kind
def test_local_features_that_do_not_belong(
    deployment, attached: AttachedCollection, theirs: Theirs, photo: Photo
) -> None:
    ids = theirs.ids[:2]
    other = ImageFeatures(**{**vars(photo("x")), "extractor": "delf@7"})
    with pytest.raises(FingerprintMismatchError, match=r"'xfeat@1', these are of 'delf@7'"):
        attached.put_local(ids, [photo("a"), other])
    stranger = "nobody" if isinstance(ids[0], str) else -5
    with pytest.raises(ImagesMissingError, match="does not hold 1 of 1 ids"):
        attached.put_local([stranger], [photo("a")])
    with pytest.raises(InvalidInputError, match="an id comes twice"):
        attached.put_local([ids[0], ids[0]], [photo("a"), photo("b")])
    with pytest.raises(ValueError, match="2 ids came with the features of 1 images"):
        attached.put_local(ids, [photo("a")])
    attached.put_local([], [])
    assert attached.companion not in theirs.client.list_collections(timeout=20)

    attached.put_local(ids, [photo("a"), photo("b")])
    with pytest.raises(FingerprintMismatchError, match=r"'xfeat@1', these are of 'delf@7'"):
        attached.put_local(ids[:1], [other])
    with pytest.raises(FingerprintMismatchError, match=r"'xfeat@1', these are of 'delf@7'"):
        AttachedCollection(deployment.uri, theirs.kind.name, token=deployment.token, extractor="delf@7")


@one_kind
def test_a_writer_that_dies_is_gone_on_with(
    attached: AttachedCollection, theirs: Theirs, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written when it died, what is missing says what to do again."""
    ids = theirs.ids[:6]
    images = [photo(f"{i}", seed=i, keypoints=1700) for i in range(6)]
    for dies_before, whole in ((1, 0), (4, 0), (6, 1)):
        left, call = [dies_before], Client.call

        def dying(self: Client, operation: str, _left=left, _call=call, **arguments: Any) -> Any:
            if operation in ("create_collection", "create_index", "upsert"):
                if not _left[0]:
                    raise KeyboardInterrupt
                _left[0] -= 1
            return _call(self, operation, **arguments)

        with monkeypatch.context() as patched:
            patched.setattr("connector.rows._WRITE_BYTES", 1)  # so that every chunk is a call
            patched.setattr(Client, "call", dying)
            with pytest.raises(KeyboardInterrupt):
                attached.put_local(ids, images)
        again = attached.missing(ids)
        assert again == ids[whole:]
        attached.put_local(again, [images[ids.index(id_)] for id_ in again])
        stored = attached.local(ids)
        assert all(
            (a.local.descriptors == b.local.descriptors).all() for a, b in zip(images, stored, strict=True)
        )
        attached.drop_local()


@one_kind
def test_damage_names_the_image(attached: AttachedCollection, theirs: Theirs, photo: Photo) -> None:
    id_ = theirs.ids[4]
    attached.put_local([id_], [photo("a", keypoints=1700)])
    rows = attached._companion._store.rows
    row = next(iter(rows.query("chunk == 1", ["*"])))
    rows.write([dict(row) | {"payload": "AAAA"}], [4])
    with pytest.raises(CorruptPayloadError) as caught:
        attached.local([id_])
    assert repr(str(id_)) in str(caught.value)


# What cannot be attached to


@pytest.fixture(scope="module")
def client(deployment) -> Iterator[Client]:
    with Client(deployment.uri, token=deployment.token) as opened:
        yield opened


def make(client: Client, name: str, *, key: str = "pk", index: dict[str, Any] | None = None) -> None:
    fields = MilvusClient.create_schema(auto_id=False)
    fields.add_field(key, DataType.INT64, is_primary=True)
    fields.add_field("photo", DataType.INT64)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=4)
    client.call("create_collection", collection_name=name, schema=fields)
    if index is not None:
        params = MilvusClient.prepare_index_params()
        params.add_index("embedding", **index)
        client.call("create_index", collection_name=name, index_params=params)
        client.call("load_collection", collection_name=name)


def test_a_collection_that_is_not_loaded_is_left_so(deployment, client: Client) -> None:
    make(client, "bare")
    make(client, "resting", index={"index_type": "FLAT", "metric_type": "IP"})
    client.call("release_collection", collection_name="resting")
    for name, complaint in [
        ("bare", "has no index, which a search needs: make one with create_index"),
        ("resting", r"is not loaded .*call load_collection\('resting'\) first"),
    ]:
        with pytest.raises(NotLoadedError, match=complaint):
            AttachedCollection(deployment.uri, name, token=deployment.token)
    assert client.call("list_indexes", collection_name="bare") == []
    state = client.call("get_load_state", collection_name="resting")["state"]
    assert str(state) == "NotLoad"


def test_fields_that_do_not_serve(deployment, client: Client) -> None:
    make(client, "plain", index={"index_type": "FLAT", "metric_type": "IP"})
    for arguments, complaint in [
        (
            {"id_field": "photo"},
            "ids of 'plain' are those of its primary key, 'pk': ask for 'photo' as an out",
        ),
        ({"vector_field": "photo"}, "'photo' of 'plain' holds no float vectors; embedding does"),
        ({"vector_field": "nothing"}, "has no field 'nothing'; it has pk, photo, embedding"),
    ]:
        with pytest.raises(InvalidInputError, match=complaint):
            AttachedCollection(deployment.uri, "plain", token=deployment.token, **arguments)
    with pytest.raises(CollectionMissingError, match=r"has no collection 'plane'; it has .*plain"):
        AttachedCollection(deployment.uri, "plane", token=deployment.token)


@pytest.mark.parametrize("deployment", ["server"], indirect=True)
def test_vectors_of_half_precision_that_the_server_searches_wrongly(
    deployment, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milvus 2.3 takes them and gives them back; what its searches say of them is noise."""
    fields = MilvusClient.create_schema(auto_id=False)
    fields.add_field("pk", DataType.INT64, is_primary=True)
    fields.add_field("embedding", DataType.FLOAT16_VECTOR, dim=8)
    params = MilvusClient.prepare_index_params()
    params.add_index("embedding", index_type="FLAT", metric_type="L2")
    client.call("create_collection", collection_name="half", schema=fields, consistency_level="Strong")
    client.call("create_index", collection_name="half", index_params=params)
    client.call("load_collection", collection_name="half")
    with AttachedCollection(deployment.uri, "half", token=deployment.token) as empty:
        assert len(empty) == 0
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float16)
    rows = [{"pk": i, "embedding": vector} for i, vector in enumerate(vectors)]
    client.call("insert", collection_name="half", data=rows)
    with monkeypatch.context() as patched:
        patched.setattr(AttachedCollection, "_check_half", lambda _: None)
        with AttachedCollection(deployment.uri, "half", token=deployment.token) as read:
            np.testing.assert_array_equal(read.vectors([3, 49]), vectors[[3, 49]].astype(np.float32))
    with pytest.raises(
        RefusedError, match=r"searches the half-precision vectors 'embedding' of 'half' wrong"
    ):
        AttachedCollection(deployment.uri, "half", token=deployment.token)


def test_a_companion_that_is_not_ours_is_left_alone(deployment, client: Client, photo: Photo) -> None:
    make(client, "guarded", index={"index_type": "FLAT", "metric_type": "IP"})
    make(client, "guarded_landbridge", index={"index_type": "FLAT", "metric_type": "IP"})
    with pytest.raises(SchemaMismatchError, match="'guarded_landbridge' exists and was not made by Landbr"):
        AttachedCollection(deployment.uri, "guarded", token=deployment.token)
    row = {"pk": 1, "photo": 1, "embedding": [1.0, 0, 0, 0]}
    client.call("insert", collection_name="guarded", data=[row])
    with AttachedCollection(
        deployment.uri, "guarded", token=deployment.token, companion="elsewhere"
    ) as attached:
        attached.put_local([1], [photo("a")])
        assert attached.missing([1, 2]) == [2]
        attached.drop_local()
    assert client.call("has_collection", collection_name="guarded_landbridge")


def test_an_alias_of_theirs(deployment, client: Client, photo: Photo) -> None:
    """Local features stay when the alias goes to another collection of the same ids."""
    for name in ("gallery_1", "gallery_2"):
        make(client, name, index={"index_type": "FLAT", "metric_type": "IP"})
        row = {"pk": 7, "photo": 1, "embedding": [1.0, 0, 0, 0]}
        client.call("insert", collection_name=name, data=[row])
    with Aliases(deployment.uri, token=deployment.token) as aliases:
        aliases.switch("gallery", "gallery_1")
        with AttachedCollection(deployment.uri, "gallery", token=deployment.token) as attached:
            attached.put_local([7], [photo("a")])
        client.call("alter_alias", collection_name="gallery_2", alias="gallery")
        with AttachedCollection(deployment.uri, "gallery", token=deployment.token) as attached:
            assert attached.missing([7]) == []
            assert attached.search(np.eye(1, 4, dtype=np.float32), 3).ids == [[7]]
            attached.drop_local()
        aliases.drop("gallery")
