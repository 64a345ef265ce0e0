import subprocess
import sys

import pytest

import landbridge


@pytest.mark.parametrize("name", landbridge.__all__)
def test_every_public_name_is_there(name):
    assert getattr(landbridge, name) is not None


def test_public_names():
    assert {"Index", "SampleWorld", "load_dataset", "evaluate", "METHODS", "write_submission"} <= set(
        landbridge.__all__
    )
    assert landbridge.METHODS == ("global", "aqe", "verify", "id-qe", "mmst-c")
    with pytest.raises(AttributeError, match="module 'landbridge' has no attribute 'Indx'"):
        landbridge.Indx  # noqa: B018


HEAVY = "torch", "pymilvus", "cv2", "numpy"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import landbridge", HEAVY),
        ("import landbridge.cli", HEAVY),
        ("from landbridge import Index", ("torch",)),
        ("from landbridge import load_dataset, Ranking, recognise, write_submission", ("torch", "pymilvus")),
    ],
)
def test_what_is_not_used_is_not_loaded(statement, unwanted):
    code = f"{statement}\nimport sys; print(*sorted(set(sys.modules) & set({unwanted!r})))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (process.stdout, process.stderr) == ("\n", "")
