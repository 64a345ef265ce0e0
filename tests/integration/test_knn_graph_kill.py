"""A process that builds a k-NN graph is killed with SIGKILL at seeded moments, until one gets through.

The graph must then be, byte for byte, what one undisturbed run writes. Run as a script, this file is the
process that is killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector import knn_graph as module
from connector.client import Client, DataType, MilvusClient
from connector.knn_graph import KnnGraph

IMAGES, NEIGHBOURS, KILLS = 400, 8, 9
FILES = ("keys.utf8", "keys.ends", "ids.int64", "neighbours.npy", "similarity.npy", "graph.json")


def build(uri: str, token: str, folder: str) -> None:
    module._NUMBERS_PER_PAGE, module._QUERIES_PER_SEARCH = 16 * 40, 16
    client = Client(uri, token=token)
    KnnGraph.build(client, "crowd", Path(folder), NEIGHBOURS, id_field="number")
    client.close()


def run(uri: str, token: str, folder: Path, *death: object) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, __file__, uri, token, folder, *map(str, death)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


@pytest.fixture
def crowd(deployment, tmp_path: Path) -> tuple[str, str]:
    """A collection of somebody else's with exact search; its address and token."""
    # Milvus Lite serves one process, and the tests hold the other path.
    uri = str(tmp_path / "crowd.db") if deployment.lite else deployment.uri
    client = Client(uri, token=deployment.token)
    fields = MilvusClient.create_schema(auto_id=False)
    fields.add_field("name", DataType.VARCHAR, is_primary=True, max_length=50)
    fields.add_field("number", DataType.INT64)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=16)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.call("create_collection", collection_name="crowd", schema=fields, index_params=index)
    vectors = np.random.default_rng(4).normal(size=(IMAGES, 16)).astype(np.float32)
    rows = [{"name": f'"{i}\\', "number": i, "vector": vector} for i, vector in enumerate(vectors)]
    client.call("upsert", collection_name="crowd", data=rows)
    client.close()
    return uri, deployment.token


def test_killed_at_any_moment(crowd: tuple[str, str], tmp_path: Path) -> None:
    undisturbed = run(*crowd, tmp_path / "undisturbed")
    assert (undisturbed.returncode, undisturbed.stderr) == (0, "")
    expected = [(tmp_path / "undisturbed" / name).read_bytes() for name in FILES]

    moments = random.Random(1805)
    kills = 0
    for attempt in range(KILLS):
        folder = tmp_path / f"killed {attempt // 3}"  # three deaths each
        process = run(*crowd, folder, moments.randrange(5, 25), moments.random() / 50)
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        kills += process.returncode == -signal.SIGKILL
    for number in range(KILLS // 3):
        folder = tmp_path / f"killed {number}"
        assert run(*crowd, folder).returncode == 0
        assert [(folder / name).read_bytes() for name in FILES] == expected
    assert kills >= KILLS * 2 // 3


def _die(calls: int, delay: float) -> None:
    """Kill this process `delay` seconds after call number `calls` to Milvus begins."""
    call, left = Client.call, [calls]

    def counted(self: Client, operation: str, **arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return call(self, operation, **arguments)

    Client.call = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    if len(sys.argv) > 4:
        _die(int(sys.argv[4]), float(sys.argv[5]))
    build(*sys.argv[1:4])
