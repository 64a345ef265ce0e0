"""`landbridge reindex` is killed with SIGKILL at seeded moments, and ends as if it had not been.

Run as a script, this file runs the command, with toy extractors, in processes that are killed one after the
other.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from connector.alias import Aliases
from connector.client import Client
from landbridge import Index, ingest
from landbridge.cli import main
from landbridge.reindexing import switch
from ranking import match_store
from ranking.match_store import MatchStore

PHOTOS = 12
CALLS = ("create_collection", "create_index", "upsert", "alter_collection_properties", "alter_alias")
NEVER = ("never", 0)
STEPS = {"_append": match_store, "join": MatchStore}
"""Everything that writes, to Milvus and to the verified pairs; a kill falls before or after one of these."""


def run(
    folder: Path, uri: str, *moments: tuple[str, int]
) -> tuple[list[int], dict[str, Any], dict[str, int]]:
    """Run the command for each of the moments, killed then.

    Returns:
        How the processes ended; if the last was not killed, its answer and how often it took each step.
    """
    command = [sys.executable, __file__, json.dumps(moments)]
    command += ["reindex", "live", "--extractor", "new-toy", "--uri", uri, "--json"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    *_, told, ends = ["{}", *process.stderr.splitlines()]
    killed = not process.stdout
    return json.loads(ends), json.loads(process.stdout or "{}"), {} if killed else json.loads(told)


def content(uri: Path, name: str) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """Records and exact embeddings by id; what was found of each verified pair, by ids."""
    with Index(uri, name) as index:
        ids, embeddings = index.collection.embeddings()
        records = index.collection.records(ids)
        assert not list(index.collection.staged())
        keys = index.library.keys
        assert index.matches.joined == set(keys)
        places, found = index.matches.among(keys)
        assert len(found) == len(index.matches)
        images = {
            record.image_id: (record, embedding.tobytes())
            for record, embedding in zip(records, embeddings, strict=True)
        }
        pairs = {}
        for (first, second), record in zip(places.tolist(), found, strict=True):
            points = index.matches.correspondences(keys[first], keys[second])
            result = [record[field].item() for field in found.dtype.names[2:-1]]
            pairs[ids[first], ids[second]] = (*result, points.tobytes())
        return images, pairs


def test_killed_at_any_moment(toy, tmp_path):
    for number in range(PHOTOS):
        motifs = range(3 * (number % 4), 3 * (number % 4) + 4)
        toy.write_photo(tmp_path / f"photos/{number}.png", motifs, number)
    for uri in (tmp_path / "whole.db", tmp_path / "killed.db"):
        with Index(uri, "first") as index:
            index.add(tmp_path / "photos")
        switch(uri, "live", "first")
    ends, answer, times = run(tmp_path, "whole.db", NEVER)
    assert (ends, answer["behind"]) == ([0], "live_2")
    old = content(tmp_path / "whole.db", "first")

    seeded = random.Random(2018)
    moments = [
        (f"{seeded.choice(['before', 'after'])} alter_collection_properties", 1),
        ("after create_collection", seeded.randrange(1, 4)),
        ("after create_index", seeded.randrange(1, 4)),
        ("after upsert", seeded.randrange(1, times["after upsert"] - 2)),
        ("after _append", seeded.randrange(1, times["after _append"])),
        ("before join", 1),
        ("before alter_alias", 1),
    ]
    ends, *_ = run(tmp_path, "killed.db", *moments)
    assert dict(zip(moments, ends, strict=True)) == dict.fromkeys(moments, -signal.SIGKILL)
    with Aliases(tmp_path / "killed.db") as aliases:
        assert aliases.list() == {"live": "first"}
    # Whatever happens behind the switch, the name leads to the new collection.
    ends, answer, _ = run(tmp_path, "killed.db", ("after alter_alias", 1), NEVER)
    assert ends == [-signal.SIGKILL, 0]
    assert answer.items() >= {"old": "live_2", "behind": "live_2", "photos": PHOTOS, "added": 0}.items()
    with Aliases(tmp_path / "killed.db") as killed, Aliases(tmp_path / "whole.db") as whole:
        assert killed.list() == whole.list() == {"live": "live_2"}
        assert killed.names() == whole.names()
    assert content(tmp_path / "killed.db", "live") == content(tmp_path / "whole.db", "live")
    assert content(tmp_path / "killed.db", "first") == old


def _watch(moment: str, nth: int) -> Counter[str]:
    """Calls of Milvus are steps too."""
    times, watched = _load("killing").watch(STEPS, moment, nth)
    calling = Client.call

    def called(self: Client, operation: str, **arguments: Any) -> Any:
        def step() -> Any:
            return calling(self, operation, **arguments)

        return watched(operation, step)() if operation in CALLS else step()

    Client.call = called  # type: ignore[method-assign]
    return times


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def _die(moment: str, nth: int) -> None:
    times = _watch(moment, nth)
    try:
        main()
    finally:
        print(json.dumps(times), file=sys.stderr, flush=True)


if __name__ == "__main__":
    _load("toy_reindex").install()
    ingest._BATCH = 4
    ends = []
    for death in json.loads(sys.argv.pop(1)):
        process = multiprocessing.get_context("fork").Process(target=_die, args=death)
        process.start()
        process.join()
        ends.append(process.exitcode)
    print(json.dumps(ends), file=sys.stderr)
