from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from extractor.conversion.published import PUBLISHED
from extractor.imagenet import DEVIATION, MEAN
from extractor.registry import CARDS
from extractor.weights import packed_weights, weights_digest
from landbridge.cli import app

VGG = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256))
VGG += ((17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512))


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["weights", *arguments], env={"COLUMNS": "250"})


def listed() -> dict[str, Any]:
    found = run("list", "--json")
    assert found.exit_code == 0
    return json.loads(found.stdout)


def checkpoint(path: Path) -> Path:
    state = {}
    for place, inputs, outputs in VGG:
        state[f"features.{place}.weight"] = torch.tensor(0.1).expand(outputs, inputs, 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(outputs)
    meta = {"architecture": "vgg16", "pooling": "mac", "mean": list(MEAN), "std": list(DEVIATION)}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


def test_list(weights: Path) -> None:
    for name, source in (("delg-resnet50.pt", "r50delg_gld_20200814"), ("mine.pt", None)):
        metadata = {} if source is None else {"source": source}
        (weights / name).write_bytes(packed_weights({"a.weight": torch.ones(2)}, metadata))
    (weights / "gem-vgg16.pt").write_bytes(b"damaged")
    Path("delf_gld_20190411").mkdir()
    (weights / "Resnet50-AP-GeM.pt").write_bytes(b"")
    found = listed()
    assert found["folder"] == str(weights)
    rows = {row["file"]: row for row in found["published"]}
    assert len(rows) == len(PUBLISHED)
    delg = rows["r50delg_gld_20200814.tar.gz"]
    assert (delg["converted"], delg["downloaded"], delg["bytes"]) == (True, None, None)
    assert (delg["makes"], delg["extractors"]) == ("delg-resnet50.pt", ["delg"])
    assert not rows["r50delg_gldv2clean_20200914.tar.gz"]["converted"]
    assert rows["delf_gld_20190411.tar.gz"]["downloaded"] == "delf_gld_20190411"
    assert rows["Resnet50-AP-GeM.pt"]["downloaded"] == str(weights / "Resnet50-AP-GeM.pt")
    assert rows["gl18-tl-resnet50-gem-w-83fdc30.pth"]["sha256_begins"] == "83fdc30"
    assert rows["gl18-tl-resnet50-gem-w-83fdc30.pth"]["licence"] == "MIT"

    files = {row["file"]: row for row in found["files"]}
    assert files["delg-resnet50.pt"]["digest"] == weights_digest(weights / "delg-resnet50.pt")
    assert files["delg-resnet50.pt"]["source"] == "r50delg_gld_20200814"
    assert (files["mine.pt"]["here"], files["mine.pt"]["extractors"]) == (True, [])
    assert (files["gem-vgg16.pt"]["here"], files["gem-vgg16.pt"]["bytes"]) == (True, 7)
    assert (files["dir-resnet101.pt"]["here"], files["dir-resnet101.pt"]["extractors"]) == (False, ["dir"])
    assert {name for row in files.values() for name in row["extractors"]} <= CARDS.keys()

    text = run("list").stdout
    for one in PUBLISHED:
        assert f"  {one.file} {one.what}\n      {one.address}\n" in text
    assert "      converted; becomes delg-resnet50.pt, for delg; licence: Apache-2.0; size unknown" in text
    assert "      downloaded; becomes" in text
    assert "mine.pt" in text.partition("not here: ")[0]
    assert "dir-resnet101.pt" in text.rpartition("not here: ")[2]


def test_convert(weights: Path, tmp_path: Path) -> None:
    source = str(checkpoint(tmp_path / "net.pth"))
    done = run("convert", source)
    assert done.exit_code == 0, done.stderr
    assert f"wrote {weights / 'siamac-vgg16.pt'}" in done.stdout
    assert "14,714,688 numbers" in done.stdout
    assert "for --extractor siamac" in done.stdout
    again = run("convert", source)
    assert (again.exit_code, again.stdout.splitlines()[0]) == (0, f"unchanged: {weights / 'siamac-vgg16.pt'}")
    facts = json.loads(run("convert", source, "--out", str(tmp_path / "other.pt"), "--json").stdout)
    assert facts["digest"] == weights_digest(weights / "siamac-vgg16.pt")
    assert (facts["written"], facts["source"], facts["extractors"]) == (True, None, [])
    assert facts["metadata"]["pooling"] == {"power": None, "levels": 0, "unit": True}
    assert next(row for row in listed()["files"] if row["file"] == "siamac-vgg16.pt")["here"]


def test_what_goes_wrong_is_one_line_and_code_1(weights: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "net.pth")
    (weights / "siamac-vgg16.pt").write_bytes(b"other")
    (tmp_path / "page.pt").write_text("<html>")
    known = tmp_path / "gl18-tl-resnet50-gem-w-83fdc30.pth"
    known.write_bytes(source.read_bytes())
    for arguments, complaint in (
        (["no.pt"], "there is no no.pt: landbridge weights list says what there is"),
        (
            ["delf_v1_20171026"],
            "download it from https://storage.googleapis.com/delf/delf_v1_20171026.tar.gz",
        ),
        ([str(source)], "siamac-vgg16.pt is there already, with other weights: --replace writes over them"),
        (["page.pt"], "cannot read page.pt: "),
        ([str(known)], "which by its name should begin with 83fdc30: download it again, or pass --unchecked"),
    ):
        done = run("convert", *arguments)
        assert done.exit_code == 1
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert run("convert", str(source), "--replace").exit_code == 0
    assert run("convert", str(known), "--unchecked", "--out", str(tmp_path / "x.pt")).exit_code == 0
