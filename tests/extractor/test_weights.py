from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from extractor.weights import (
    HubWeights,
    PackagedWeights,
    StoredWeights,
    WeightsError,
    load_metadata,
    load_state_dict,
    network_digest,
    packed_weights,
    part_of,
    weights_digest,
    weights_folder,
)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    assert weights_digest(path) == hashlib.sha256(b"weights").hexdigest()[:16]


def test_missing_package_and_missing_file() -> None:
    for package, file in (("no_such_package_at_all", "w.pth"), ("extractor", "w.pth"), ("json", "w.pth")):
        with pytest.raises(WeightsError, match=f"{package}/w.pth are not installed: pip install a"):
            PackagedWeights(package, file, "a", "MIT").path()
    assert PackagedWeights("extractor", "features.py", "a", "MIT").path().name == "features.py"


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


def test_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANDBRIDGE_WEIGHTS", raising=False)
    assert weights_folder().parts[-2:] == ("landbridge", "weights")
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))
    stored = StoredWeights("w.pt", "MIT")
    with pytest.raises(
        WeightsError, match=rf"there are no weights {tmp_path}/w\.pt: put it there; landbridge"
    ):
        stored.path()
    known = StoredWeights("w.pt", "MIT", "net.pth", "delf --backbone resnet50")
    assert known.origin == (
        "w.pt: landbridge weights convert net.pth or landbridge train delf --backbone resnet50"
    )
    assert StoredWeights("w.pt", "MIT", trained="delg").origin == "w.pt: landbridge train delg"
    with pytest.raises(WeightsError, match=r"w\.pt: landbridge weights convert net\.pth or landbridge train"):
        known.path()
    (tmp_path / "w.pt").write_bytes(b"")
    assert stored.path() == tmp_path / "w.pt"
    assert StoredWeights(str(tmp_path / "w.pt"), "MIT").path() == tmp_path / "w.pt"


def test_models_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HubWeights(str(tmp_path), "MIT").path() == tmp_path
    unknown = HubWeights("nobody/no-such-model", "MIT")
    if find_spec("huggingface_hub"):
        with pytest.raises(WeightsError, match="nobody/no-such-model are neither a folder nor in the hub's"):
            unknown.path()
    monkeypatch.setattr("extractor.weights.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install transformers"):
        unknown.path()


def test_parts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a.weight": torch.ones(1, 2), "a.bias": torch.ones(1), "ab.weight": torch.zeros(1)}, path)
    module = torch.nn.Linear(2, 1)
    part_of(path, "a", module)
    assert module.weight.tolist() == [[1, 1]]
    with pytest.raises(WeightsError, match=r"w\.pt does not hold the ab of this model"):
        part_of(path, "ab", module)


def test_what_a_file_says_besides_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = {"b.weight": torch.arange(12.0).view(3, 4).T, "a.weight": torch.ones(2)}
    told = {"style": "slim", "input": [1.0, [128.0, 128.0]], "power": None}
    path.write_bytes(packed_weights(state, told))
    assert load_metadata(path) == told
    assert load_state_dict(path).keys() == state.keys()
    assert torch.equal(load_state_dict(path)["b.weight"], state["b.weight"])
    assert packed_weights(dict(reversed(state.items())), told) == path.read_bytes()
    assert packed_weights(state, {**told, "power": 3}) != path.read_bytes()
    torch.save(state, path)
    assert load_metadata(path) == {}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot read weights"):
        load_metadata(path)


def test_digest_of_a_network() -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    assert network_digest(first) != network_digest(second)
    second.load_state_dict(first.state_dict())
    assert network_digest(first) == network_digest(second)
    assert len(network_digest(first)) == 16
