"""The index of the embeddings: chosen for the size, with its search parameters, and tried out before use.

Some backends take an index that they cannot build: Milvus Lite any name at all, servers those that they were
compiled without. Nothing fails then before the collection is loaded again, or nothing but the speed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from connector.client import Client, DataType
from connector.errors import InvalidInputError, RefusedError
from connector.schema import Field, Layout, check_owner, properties

EXACT: Mapping[str, Any] = {"index_type": "FLAT", "metric_type": "COSINE", "params": {}}
"""Exact search, and the same answer on every server."""

METRICS = ("COSINE", "IP")
"""Of unit vectors, both are the cosine."""

_EXACT_IMAGES = 100_000
_HNSW_BYTES = 64 * 2**30
_IVF_BYTES = 256 * 2**30
_SEGMENT_BYTES = 2**30
_UNPROVEN = ("FLAT", "AUTOINDEX")
_PROBE_ROWS = 1200  # a server leaves segments of less than 1024 rows without an index
_FEW_LISTS = 128


def chosen(images: int, dimension: int, *, lite: bool) -> dict[str, Any]:
    """The index for so many images, with its parameters.

    Exact search up to 100 thousand images, and on Milvus Lite, which is not faster with any index. Beyond,
    HNSW while the vectors take up to 64 GiB of memory, IVF_SQ8, which keeps a byte of four, up to 256 GiB of
    them, and then DISKANN.

    Args:
        images: how many there will be.
        dimension: of their embeddings.
        lite: whether the backend is Milvus Lite.
    """
    size = 4 * dimension * images
    if lite or images <= _EXACT_IMAGES:
        kind = "FLAT"
    elif size <= _HNSW_BYTES:
        kind = "HNSW"
    elif size <= _IVF_BYTES:
        kind = "IVF_SQ8"
    else:
        kind = "DISKANN"
    return completed({"index_type": kind}, images, dimension)


def chosen_local(rows: int, dimension: int, *, lite: bool) -> dict[str, Any]:
    """The index for so many local descriptors: there are many to an image, so their memory decides.

    IVF_PQ with a byte for four components; HNSW on Milvus Lite, which has no PQ.

    Args:
        rows: how many there will be.
        dimension: of the descriptors.
        lite: whether the backend is Milvus Lite.
    """
    return completed({"index_type": "HNSW" if lite else "IVF_PQ"}, rows, dimension)


def completed(index: Mapping[str, Any], images: int, dimension: int) -> dict[str, Any]:
    """An index as the user gave it, with metric and parameters where they were left out.

    Raises:
        InvalidInputError: it has no type, or its metric is neither COSINE nor IP.
    """
    kind = index.get("index_type")
    metric = index.get("metric_type", "COSINE")
    if not kind:
        raise InvalidInputError(f"index_params {dict(index)} lack the index_type: give one, such as HNSW")
    if metric not in METRICS:
        raise InvalidInputError(f"metric_type of {kind} must be COSINE or IP, is {metric!r}")
    params = index.get("params") or _build_params(str(kind), images, dimension)
    return {"index_type": kind, "metric_type": metric, "params": dict(params)}


def _build_params(kind: str, images: int, dimension: int) -> dict[str, Any]:
    if kind == "HNSW":
        return {"M": 16, "efConstruction": 200}
    if kind == "GPU_CAGRA":
        return {"intermediate_graph_degree": 64, "graph_degree": 32}
    if "IVF" in kind or kind == "SCANN":
        # Each segment has an index of its own.
        rows = min(max(images, 1), _SEGMENT_BYTES // (4 * dimension))
        lists = {"nlist": max(_FEW_LISTS, 4 * math.isqrt(rows))}
        return {**lists, "m": _subspaces(dimension), "nbits": 8} if kind.endswith("PQ") else lists
    return {}


def _subspaces(dimension: int) -> int:
    """The most parts of equal size that have four components or more."""
    return next(parts for parts in range(max(1, dimension // 4), 0, -1) if dimension % parts == 0)


def search_params(index: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Parameters of a search for so many hits, as `params` of Milvus takes them.

    Args:
        index: `index_type` and `params`.
        limit: hits of one query.
    """
    kind = index["index_type"]
    if kind == "HNSW":
        return {"ef": min(max(2 * limit, 256), 32_768)}
    if kind == "DISKANN":
        return {"search_list": 100 if limit <= 20 else min(max(2 * limit, 100), 65_535)}
    if kind == "GPU_CAGRA":
        return {"itopk_size": max(128, 1 << (limit - 1).bit_length()), "search_width": 4}
    if "IVF" in kind or kind == "SCANN":
        return {"nprobe": max(16, int(index["params"].get("nlist", _FEW_LISTS)) // 8)}
    return {}


def described(client: Client, layout: Layout) -> dict[str, Any] | None:
    """The index that Milvus has on the vectors of a collection; None when there is none."""
    names = client.call("list_indexes", collection_name=layout.name, field_name=layout.vector.name)
    if not names:
        return None
    said = client.call("describe_index", collection_name=layout.name, index_name=names[0])
    kind, metric = str(said["index_type"]), str(said["metric_type"])
    asked = dict(layout.index["params"]) if kind == layout.index["index_type"] else {}
    # Milvus Lite does not tell the parameters, a server tells them as text.
    return {"index_type": kind, "metric_type": metric, "params": asked | _told_params(said)}


def _told_params(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: said[name] for name in ("M", "efConstruction", "nlist", "m", "nbits") if name in said}


def probe(client: Client, layout: Layout) -> None:
    """Build the index of a layout over some random vectors, in a collection that is dropped again.

    Costs a second on Milvus Lite and some ten on a server; exact search needs no trial.

    Raises:
        RefusedError: the backend cannot build it.
    """
    kind = layout.index["index_type"]
    if kind in _UNPROVEN:
        return
    trial = Layout(f"{layout.name}_probe", (Field("pk", DataType.VARCHAR, 32), layout.vector), layout.index)
    _drop(client, trial.name)
    with client.creating:
        client.forget_unfinished(trial.name)
        client.call(
            "create_collection",
            collection_name=trial.name,
            schema=trial.milvus_schema(),
            properties=properties("probe", layout.index),
        )
    try:
        _build(client, trial)
    except RefusedError as error:
        raise RefusedError(
            f"Milvus at {client.uri} cannot build the index {kind} {layout.index['params']} of "
            f"{layout.name!r}: {error}; give other index_params, or none"
        ) from None
    finally:
        _drop(client, trial.name)


def _build(client: Client, trial: Layout) -> None:
    kind = trial.index["index_type"]
    vectors = np.random.default_rng(0).standard_normal((_PROBE_ROWS, trial.vector.size), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [{"pk": str(number), trial.vector.name: vector} for number, vector in enumerate(vectors)]
    client.call("create_index", collection_name=trial.name, index_params=trial.milvus_index())
    client.call("insert", collection_name=trial.name, data=rows)
    client.call("flush", collection_name=trial.name)
    deadline = time.monotonic() + client.timeout
    while True:
        names = client.call("list_indexes", collection_name=trial.name)
        said = client.call("describe_index", collection_name=trial.name, index_name=names[0])
        if said["index_type"] != kind:
            raise RefusedError(f"it makes {said['index_type']} of it")
        if said["total_rows"] >= _PROBE_ROWS and not said["pending_index_rows"]:
            break
        if said["state"] == "Failed" or time.monotonic() > deadline:
            raise RefusedError(
                f"after {client.timeout:g} s it has indexed {said['indexed_rows']} of {_PROBE_ROWS} vectors"
            )
        time.sleep(0.1)
    if client.lite:  # which builds an index when it loads
        client.call("release_collection", collection_name=trial.name)
        client.call("load_collection", collection_name=trial.name)


def _drop(client: Client, name: str) -> None:
    if client.call("has_collection", collection_name=name):
        check_owner(client.call("describe_collection", collection_name=name))
        client.call("drop_collection", collection_name=name)
