"""`landbridge index` and `import` are killed with SIGKILL at seeded moments, and end as if they had not been.

Run as a script, this file is the process that is killed: the command, with the toy extractor.
"""

from __future__ import annotations

import importlib.util
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from connector.collection import Collection
from extractor.files import StoredFeatures, write_features
from extractor.photo import read_photo
from landbridge import Index
from landbridge import ingest as module
from landbridge.cli import main
from ranking import match_store
from ranking.match_store import MatchStore

PHOTOS = 18
STEPS = {
    "stage": Collection,
    "put_blob": Collection,
    "publish": Collection,
    "_append": match_store,
    "join": MatchStore,
}
"""Everything that writes; a kill falls before or after one of these."""


def run(
    folder: Path, uri: str, moment: str = "never", nth: int = 0, what: tuple[str, str] = ("index", "photos")
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, moment, str(nth), *what, "--uri", uri, "--json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def content(uri: Path) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """Records and exact embeddings by id; what was found of each verified pair, by ids."""
    with Index(uri) as index:
        ids, embeddings = index.collection.embeddings()
        records = index.collection.records(ids)
        images = {
            record.image_id: (record, embedding.tobytes())
            for record, embedding in zip(records, embeddings, strict=True)
        }
        assert not list(index.collection.staged())
        keys = index.library.keys
        assert index.matches.joined == set(keys)
        places, found = index.matches.among(keys)
        assert len(found) == len(index.matches)
        pairs = {}
        for (first, second), record in zip(places.tolist(), found, strict=True):
            points = index.matches.correspondences(keys[first], keys[second])
            result = [record[name].item() for name in found.dtype.names[2:-1]]
            pairs[ids[first], ids[second]] = (*result, points.tobytes())
        return images, pairs


def test_killed_at_any_moment(toy, tmp_path):
    for number in range(PHOTOS):
        motifs = range(3 * (number % 6), 3 * (number % 6) + 4)
        toy.write_photo(tmp_path / f"photos/{number}.png", motifs, number)
    (tmp_path / "photos/bad.png").write_text("no photo")
    whole = run(tmp_path, "whole.db")
    assert whole.returncode == 0, whole.stderr
    times = json.loads(whole.stderr.splitlines()[-1])
    assert times["before put_blob"] == times["before join"] == 1

    seeded = random.Random(2018)
    last = times["after _append"]
    for moment, nth in [
        ("after stage", seeded.randrange(1, times["after stage"])),
        (f"{seeded.choice(['before', 'after'])} put_blob", 1),
        (f"{seeded.choice(['before', 'after'])} publish", 2),
        ("after _append", seeded.randrange(1, last // 2)),
        ("before _append", seeded.randrange(1, last // 2)),
        ("before join", 1),
    ]:
        process = run(tmp_path, "killed.db", moment, nth)
        assert process.returncode == -signal.SIGKILL, (moment, nth, process.stderr)
    final = run(tmp_path, "killed.db")
    assert (final.returncode, json.loads(final.stdout)["photos"]) == (0, PHOTOS), final.stderr
    assert content(tmp_path / "killed.db") == content(tmp_path / "whole.db")
    with Index(tmp_path / "killed.db") as index:
        again = index.add(tmp_path / "photos")
    assert (again.added, again.unchanged, again.verified) == ([], PHOTOS, 0)


def test_killed_while_features_are_imported(toy, tmp_path):
    stored = []
    for number in range(PHOTOS):
        motifs = range(3 * (number % 6), 3 * (number % 6) + 4)
        photo = read_photo(toy.write_photo(tmp_path / f"photos/{number}.png", motifs, number))
        made = toy.ToyExtractor().extract(photo, str(number))
        stored.append(StoredFeatures(str(number), made.local, made.global_descriptor, made.size))
    write_features(tmp_path / "features.h5", stored)
    what = ("import", "features.h5")
    whole = run(tmp_path, "whole.db", what=what)
    assert whole.returncode == 0, whole.stderr
    seeded = random.Random(2018)
    for moment, nth in [
        ("after stage", seeded.randrange(1, 4)),
        (f"{seeded.choice(['before', 'after'])} publish", 2),
    ]:
        process = run(tmp_path, "killed.db", moment, nth, what)
        assert process.returncode == -signal.SIGKILL, (moment, nth, process.stderr)
    final = run(tmp_path, "killed.db", what=what)
    assert (final.returncode, json.loads(final.stdout)["photos"]) == (0, PHOTOS), final.stderr
    assert content(tmp_path / "killed.db") == content(tmp_path / "whole.db")
    with Index(tmp_path / "killed.db") as index:
        again = index.add_features(tmp_path / "features.h5")
    assert (again.added, again.unchanged, again.verified) == ([], PHOTOS, 0)


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    _load("toy_extractor").install()
    module._BATCH = 4
    times, _ = _load("killing").watch(STEPS, sys.argv.pop(1), int(sys.argv.pop(1)))
    try:
        main()
    finally:
        print(json.dumps(times), file=sys.stderr)
