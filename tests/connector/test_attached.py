"""Half precision against a stand-in; all else is in tests/integration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from connector.attached import AttachedCollection
from connector.client import DataType
from connector.errors import InvalidInputError, RefusedError
from connector.half import decode, encode

VECTORS = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)


class Answer(list):
    """One query's hits, as pymilvus gives them."""

    def __init__(self, ids: list[int], distances: list[float]) -> None:
        super().__init__({"id": id_, "entity": {"pk": id_}} for id_ in ids)
        self.ids, self.distances = ids, distances


class Server:
    """A server that has vectors of half precision under exact search."""

    def __init__(self, kind: int, metric: str, *, error: float = 0.0) -> None:
        self.kind, self.metric, self.error = kind, metric, error
        self.stored = encode(VECTORS, kind)
        self.rows = decode(self.stored, kind, 8)

    def has_collection(self, collection_name: str, timeout: float) -> bool:
        return collection_name == "theirs"

    def describe_collection(self, **_: Any) -> dict[str, Any]:
        return {
            "collection_name": "theirs",
            "fields": [
                {"name": "pk", "type": DataType.INT64, "is_primary": True, "params": {}},
                {"name": "v", "type": self.kind, "params": {"dim": 8}},
            ],
        }

    def list_indexes(self, **_: Any) -> list[str]:
        return ["v"]

    def describe_index(self, **_: Any) -> dict[str, Any]:
        return {"index_type": "FLAT", "metric_type": self.metric}

    def get_load_state(self, **_: Any) -> dict[str, str]:
        return {"state": "Loaded"}

    def query(self, *, output_fields: list[str], filter: str = "", **_: Any) -> list[dict[str, Any]]:  # noqa: A002
        if output_fields == ["count(*)"]:
            return [{"count(*)": len(self.rows)}]
        if ">" in filter:
            return []
        half = self.kind != DataType.FLOAT_VECTOR
        return [{"pk": i, "v": [value] if half else value} for i, value in enumerate(self.stored)]

    def search(self, *, data: list[bytes], limit: int, **_: Any) -> list[Answer]:
        queries = decode(data, self.kind, 8)
        if self.metric == "L2":
            scores = ((queries[:, None] - self.rows) ** 2).sum(2)
        else:
            scores = queries @ self.rows.T
            if self.metric == "COSINE":
                norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(self.rows, axis=1)
                scores = scores / norms
        order = np.argsort(scores if self.metric == "L2" else -scores, axis=1)[:, :limit]
        return [
            Answer(row.tolist(), (line[row] + self.error).tolist())
            for row, line in zip(order, scores, strict=True)
        ]

    def close(self) -> None: ...


@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
@pytest.mark.parametrize("kind", [DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR])
def test_half_precision(kind: int, metric: str) -> None:
    with AttachedCollection("http://milvus", "theirs", client=Server(kind, metric)) as attached:
        ids, scores, fields = attached.search(VECTORS[[3, 9]], 4)
        if metric != "IP":
            assert [line[0] for line in ids] == [3, 9]
        assert [len(line) for line in scores] == [4, 4]
        assert fields == [[{}] * 4] * 2
        np.testing.assert_allclose(attached.vectors([7, 2]), VECTORS[[7, 2]], rtol=2**-8)


@pytest.mark.parametrize("metric", ["L2", "IP", "COSINE"])
def test_wrong_scores_are_noticed(metric: str) -> None:
    server = Server(DataType.BFLOAT16_VECTOR, metric, error=0.5)
    with pytest.raises(
        RefusedError, match=r"wrongly \(it says .*2\.4 or later, or keep them as FLOAT_VECTOR"
    ):
        AttachedCollection("http://milvus", "theirs", client=server)


def test_a_metric_that_ranks_nothing_here() -> None:
    with pytest.raises(InvalidInputError, match="has the metric HAMMING: COSINE, IP or L2 is needed"):
        AttachedCollection("http://milvus", "theirs", client=Server(DataType.FLOAT_VECTOR, "HAMMING"))


def test_rows_that_others_have_just_written_are_found() -> None:
    class Late(Server):
        def query(self, **arguments: Any) -> list[dict[str, Any]]:
            rows = super().query(**arguments)
            return rows if arguments["consistency_level"] == "Strong" else rows[:5]

    with AttachedCollection("http://milvus", "theirs", client=Late(DataType.FLOAT_VECTOR, "IP")) as attached:
        np.testing.assert_array_equal(attached.vectors([3, 12]), VECTORS[[3, 12]])
