"""What the README shows runs as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from landbridge import SampleWorld

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)

THEIRS = """
import sys
import numpy as np
from pymilvus import MilvusClient

client = MilvusClient("yours.db")
client.create_collection("photos", dimension=2, id_type="string", max_length=100)
rows = [{"id": name, "vector": np.random.normal(size=2), "path": f"{name}.jpg"} for name in sys.argv[1:]]
client.insert("photos", rows)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with what the README speaks of: `photos/`, `queries/`, `query.jpg` and `yours.db`."""
    folder = tmp_path_factory.mktemp("readme")
    SampleWorld(
        seed=3,
        landmarks=1,
        photos_per_landmark=6,
        lookalikes=0,
        distractors=2,
        queries_per_landmark=1,
        queries_without_match=0,
        size=(240, 180),
    ).write(folder)
    (folder / "jpg").rename(folder / "photos")
    (folder / "queries_cropped").rename(folder / "queries")
    (query,) = (folder / "queries").iterdir()
    shutil.copy(query, folder / "query.jpg")
    # In a process of its own, as Milvus Lite serves one at a time.
    subprocess.run([sys.executable, "-c", THEIRS, *names(folder)], cwd=folder, check=True, timeout=240)
    return folder


def names(folder):
    return sorted(photo.stem for photo in (folder / "photos").iterdir())


def test_there_is_python_in_it():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_runs(photos, block):
    process = subprocess.run(
        [sys.executable, "-c", f"ids = {names(photos)}\n{block}"],
        cwd=photos,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr
    found = set(re.findall(r"\w+", process.stdout))
    assert found & set(names(photos)), "it prints none of the photos found"
