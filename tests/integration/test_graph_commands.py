"""`landbridge graph` on a collection: killed with SIGKILL and resumed it makes what one run makes.

Run as a script, this file is the process that is killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from connector.attached import AttachedCollection
from connector.client import Client, DataType, MilvusClient
from connector.collection import Collection, Source
from connector.scan import Table
from landbridge import cli

PLACES, VIEWS, KILLS = 10, 4, 2
IMAGES = PLACES * VIEWS


def embeddings() -> np.ndarray:
    noise = np.random.default_rng(8).normal(size=(IMAGES, 16))
    vectors = np.repeat(np.eye(16)[:PLACES], VIEWS, 0) + 0.2 * noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def images(photo) -> list:
    """Views of a place share their local features."""
    return [photo(f'"view" {i % VIEWS} of {i // VIEWS}', seed=i // VIEWS) for i in range(IMAGES)]


@pytest.fixture
def walks(deployment, photo, tmp_path: Path) -> tuple[str, str]:
    """Ten places in four views each, in a Landbridge collection; its address and token."""
    # Milvus Lite serves one process, and the tests hold the other path.
    uri = str(tmp_path / "walks.db") if deployment.lite else deployment.uri
    with Collection.create(
        uri, "walks", token=deployment.token, dimension=16, extractor="xfeat@1", drop_old=True
    ) as made:
        photos = images(photo)
        made.publish(made.stage(photos, [Source("p", 1, 1)] * len(photos)), embeddings())
    return uri, deployment.token


def arguments(uri: str, folder: Path, command: str = "expand", **options: object) -> list[str]:
    usual = ["graph", command, "--uri", uri, "--collection", "walks", "--k", "6", "--json"]
    chosen = {"out": folder / "graph", **options}
    return usual + [text for name, value in chosen.items() for text in (f"--{name}", str(value))]


def run(
    walks: tuple[str, str], folder: Path, *death: object, **options: object
) -> subprocess.CompletedProcess[str]:
    uri, token = walks
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MILVUS_TOKEN": token,
        "KILLED_AT": ",".join(map(str, death)),
    }
    command = [sys.executable, __file__, *arguments(uri, folder, **options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def made(uri: str, token: str, folder: Path, alias: str) -> tuple[dict[str, bytes], dict[str, list]]:
    """The files of the match graph, and the rows of the expanded collection."""
    place = folder / "graph" / json.loads((folder / "graph" / "current.json").read_text())["built"]
    files = [*place.rglob("*.npy"), place / "images.csv"]
    with Client(uri, token=token) as client:
        table = Table.of(client, alias)
        table.check_loaded(client)
        pages = table.pages(client, ["image_id", "embedding"])
        rows = {row["image_id"]: list(row["embedding"]) for page in pages for row in page}
    return {str(path.relative_to(place)): path.read_bytes() for path in files}, rows


def test_killed_at_any_moment(walks: tuple[str, str], tmp_path: Path) -> None:
    uri, token = walks
    lite = "://" not in uri
    disturbed = (str(tmp_path / "disturbed.db"), token) if lite else walks
    if lite:
        shutil.copytree(uri, disturbed[0])
    whole = run(walks, tmp_path / "whole", alias="whole")
    assert whole.returncode == 0, whole.stderr
    facts = json.loads(whole.stdout)
    assert (facts["images"], facts["moved"], facts["graph"]["components"]) == (IMAGES, IMAGES, PLACES)
    calls = int((tmp_path / "whole" / "cache" / "calls").read_text())

    moments = random.Random(1807)
    kills = 0
    for _ in range(KILLS):
        death = moments.randrange(2, calls), moments.random() / 20
        process = run(disturbed, tmp_path / "killed", *death, alias="graph_killed")
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        kills += process.returncode == -signal.SIGKILL
    resumed = run(disturbed, tmp_path / "killed", alias="graph_killed")
    assert resumed.returncode == 0, resumed.stderr
    assert kills >= KILLS - 1
    again = json.loads(resumed.stdout)
    assert again["graph"] == facts["graph"]
    assert again["pairs"] == facts["pairs"]
    expected = made(*walks, tmp_path / "whole", "whole")
    found = made(*disturbed, tmp_path / "killed", "graph_killed")
    assert len(expected[0]) == 8  # names, descriptors, and three columns of each graph
    assert found == expected
    assert len(found[1]) == IMAGES
    with Client(disturbed[0], token=token) as client:
        assert [name for name in client.call("list_collections") if name.startswith("graph_killed_")] == [
            again["name"]
        ]


def test_somebodys_collection(deployment, photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer keys, L2 and vectors of any length; the local features lie beside it."""
    uri = str(tmp_path / "walks.db") if deployment.lite else deployment.uri
    client = Client(uri, token=deployment.token)
    for name in ("walks", "walks_landbridge"):
        if client.call("has_collection", collection_name=name):
            client.call("drop_collection", collection_name=name)
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    fields.add_field("number", DataType.INT64, is_primary=True)
    fields.add_field("photo", DataType.VARCHAR, max_length=50)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=16)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": 8, "efConstruction": 64})
    client.call("create_collection", collection_name="walks", schema=fields, index_params=index)
    photos = images(photo)
    rows = [
        {"number": i, "photo": image.image_id, "licence": f"CC{i % 3}", "vector": 5 * vector}
        for i, (image, vector) in enumerate(zip(photos, embeddings(), strict=True))
    ]
    client.call("upsert", collection_name="walks", data=rows)
    with AttachedCollection(uri, "walks", token=deployment.token) as attached:
        attached.put_local(list(range(IMAGES)), photos)
    client.close()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MILVUS_TOKEN", deployment.token)

    def call(command: str, **options: object) -> dict[str, Any]:
        answer = CliRunner().invoke(
            cli.app, arguments(uri, tmp_path, command, **{"id-field": "photo"}, **options)
        )
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)

    facts = call("expand", alias="walked", field="licence", filter="number < 36")
    assert (facts["images"], facts["graph"]["components"], facts["fields"]) == (36, 9, ["licence"])
    assert call("match", similarity=0.8)["graph"]["images"] == IMAGES
    plain = MilvusClient(uri, token=deployment.token, timeout=20)
    plain.load_collection("walked", timeout=20)
    found = plain.search(
        "walked",
        [embeddings()[5].tolist()],
        limit=4,
        filter='licence != "CC0"',
        output_fields=["licence"],
        consistency_level="Strong",
        timeout=20,
    )[0]
    assert set(found.ids) >= {4, 5, 7}  # 6 has the licence CC0
    assert {hit["entity"]["licence"] for hit in found} == {"CC1", "CC2"}
    plain.close()


def _counted(calls: int, delay: float) -> Any:
    """Kill this process `delay` seconds after a call to Milvus begins; counts the calls."""
    call, made = Client.call, [0]

    def counted(self: Client, operation: str, **arguments: Any) -> Any:
        made[0] += 1
        if made[0] == calls:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return call(self, operation, **arguments)

    Client.call = counted  # type: ignore[method-assign]
    return made


if __name__ == "__main__":
    moment, _, delay = os.environ["KILLED_AT"].partition(",")
    total = _counted(int(moment or 0), float(delay or 0))
    try:
        cli.app(sys.argv[1:])
    finally:
        Path(os.environ["XDG_CACHE_HOME"]).mkdir(exist_ok=True)
        Path(os.environ["XDG_CACHE_HOME"], "calls").write_text(str(total[0]))
