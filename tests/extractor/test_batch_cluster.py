"""Batch extraction on a Ray cluster of two machines, one of which dies on the way."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extractor.batch import cluster, extract_photos, run
from extractor.files.extraction import Extraction

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'landbridge[cluster]'")

STORE = 80 * 2**20  # bytes, the least that Ray takes


def _toy() -> Any:
    spec = importlib.util.spec_from_file_location("batch_toy", Path(__file__).with_name("batch_toy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = _toy()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two machines of one core each; the toy is known to them, and slow."""
    from ray.cluster_utils import Cluster

    toy.known_to_new_interpreters(tmp_path, monkeypatch)
    monkeypatch.setenv("TOY_SECONDS", "0.1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr("extractor.registry.EXTRACTORS", toy.extractors())
    monkeypatch.setattr(run, "SHARD", 4)
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    started.add_node(num_cpus=1, object_store_memory=STORE)
    yield started
    started.shutdown()


def test_a_machine_that_dies(machines: Any, tmp_path: Path) -> None:
    photos = toy.write_photos(tmp_path / "photos", 32)
    out = tmp_path / "out"
    killed_at: list[int] = []

    def kill() -> None:
        """Kill the second machine as soon as a few shards are done."""
        while not killed_at:
            time.sleep(0.02)
            if Extraction.is_at(out):
                done = sum(entry.done for _, entry in Extraction.open(out))
                if 4 <= done < 28:
                    machines.remove_node(machines.list_all_nodes()[-1], allow_graceful=False)
                    killed_at.append(done)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    steps: list[int] = []
    done = extract_photos(
        photos,
        out,
        extractor="learner",
        ray=machines.address,
        progress=lambda step, count, total: steps.append(count) if step == "extract" else None,
    )
    killer.join(10)
    assert killed_at, "the machine was killed in the middle"
    assert (done.extracted, done.failed) == (32, {})
    assert steps == list(range(0, 33, 4))
    assert not ray.is_initialized()

    os.environ["TOY_SECONDS"] = "0"
    extract_photos(photos, tmp_path / "here", extractor="learner")
    assert toy.tree(out) == toy.tree(tmp_path / "here")

    # What a worker says comes through.
    header = out / "extraction.json"
    header.write_text(header.read_text().replace('"fingerprint": "learner', '"fingerprint": "other'))
    photos["0/000"].touch()
    with pytest.raises(ValueError, match=r"holds features of other-.*, this is learner-"):
        extract_photos(photos, out, ray=machines.address)


def test_room_for_a_task_on_every_machine() -> None:
    def nodes(*resources: dict[str, float]) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": one} for one in resources]

    dead = [{"Alive": False, "Resources": {"CPU": 1.0}}]
    assert cluster._share(nodes({"CPU": 16.0}, {"CPU": 4.0}, {}) + dead, "cpu") == (4, 0)
    assert cluster._share(nodes({"CPU": 64.0}, {"CPU": 0.0}), "cpu") == (8, 0)
    assert cluster._share(nodes({"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0}, {"GPU": 1, "CPU": 4}), "cuda") == (
        4,
        1,
    )
    with pytest.raises(ValueError, match="no machine of the cluster has a GPU: use the device cpu"):
        cluster._share(nodes({"CPU": 64.0}), "cuda")


def test_machines_that_do_not_see_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractor.threads._limit", None)  # which tasks set
    with pytest.raises(ValueError, match=r"does not see .*out: all machines of a cluster need"):
        cluster._extract_shard(str(tmp_path / "out"), 0, "cpu", "float32", 1)
    photos = toy.write_photos(tmp_path / "photos", 2)
    monkeypatch.setattr("extractor.registry.EXTRACTORS", toy.extractors())
    extract_photos(photos, tmp_path / "out")
    for path in photos.values():
        path.unlink()
    with pytest.raises(ValueError, match=r"does not see .*photos/0/000.png: all machines of a cluster need"):
        cluster._extract_shard(str(tmp_path / "out"), 0, "cpu", "float32", 1)


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = toy.write_photos(tmp_path / "photos", 2)
    monkeypatch.setattr("extractor.registry.EXTRACTORS", toy.extractors())
    with pytest.raises(ValueError, match="on a cluster the device is cpu or cuda"):
        extract_photos(photos, tmp_path / "out", device="cuda:1", ray="local")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'landbridge\[cluster\]'"):
        extract_photos(photos, tmp_path / "out", ray="local")
