"""`extract_photos` is killed with SIGKILL at seeded moments, and must end as if it had not been."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

JOB = Path(__file__).with_name("batch_toy.py")
COUNT = 18


def run(folder: Path, kind: str, out: str, moment: str = "never", nth: int = 0) -> Any:
    command = [sys.executable, JOB, moment, str(nth), "photos", out, kind]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("kind", ["npz", "delg"])
def test_killed_at_any_moment_it_comes_to_the_same(kind: str, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    rng = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    for number in range(COUNT):
        cv2.imwrite(str(tmp_path / f"photos/{number}.png"), rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    (tmp_path / "photos/bad.png").write_text("no photo")
    whole = run(tmp_path, kind, "whole")
    assert whole.returncode == 0, whole.stderr
    said = json.loads(whole.stdout)
    times = said["times"]
    assert (said["extracted"], times["before learn"], times["before extract"]) == (COUNT, 1, COUNT)

    seeded = random.Random(2018)
    # Each run that is killed gets further, so these moments are early ones of what is left.
    moments = [
        ("before learn", 1),
        ("after learn", 1),
        ("after replace", 1),  # what was learnt, without the header
        ("before replace", 3),
        ("after extract", seeded.randrange(1, 4)),
        ("before extract", seeded.randrange(4, 8)),
        (f"{seeded.choice(['before', 'after'])} replace", seeded.randrange(1, 4)),
        ("after extract", seeded.randrange(1, 3)),
        (f"{seeded.choice(['before', 'after'])} replace", 1),
    ]
    for moment, nth in moments if kind == "npz" else moments[3:6]:
        process = run(tmp_path, kind, "killed", moment, nth)
        assert process.returncode == -signal.SIGKILL, (moment, nth, process.stdout, process.stderr)
    final = run(tmp_path, kind, "killed")
    assert final.returncode == 0, final.stderr
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    again = json.loads(run(tmp_path, kind, "killed").stdout)
    assert (again["extracted"], again["unchanged"]) == (0, COUNT)
