"""From a download to a weights file: archives, names, checksums, and writing it whole or not at all."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from extractor.conversion import convert as module
from extractor.conversion.convert import convert
from extractor.conversion.published import PUBLISHED, published
from extractor.imagenet import DEVIATION, MEAN
from extractor.registry import CARDS
from extractor.weights import StoredWeights, WeightsError, load_metadata, weights_digest

VGG = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256))
VGG += ((17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512))


def write_checkpoint(path: Path, value: float = 0.5) -> Path:
    """A VGG16 with MAC, in single numbers that are shown many times."""
    state = {}
    for place, inputs, outputs in VGG:
        state[f"features.{place}.weight"] = torch.tensor(value).expand(outputs, inputs, 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(outputs)
    meta = {"architecture": "vgg16", "pooling": "mac", "mean": list(MEAN), "std": list(DEVIATION)}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "net.pth")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path / "weights"))


def test_again_and_over(checkpoint: Path, tmp_path: Path) -> None:
    first = convert(checkpoint)
    assert (first.written, first.path) == (True, tmp_path / "weights" / "siamac-vgg16.pt")
    assert first.parameters == {"backbone": 14_714_688}
    digest = weights_digest(first.path)
    stamp = first.path.stat().st_mtime_ns
    assert not convert(checkpoint).written
    assert first.path.stat().st_mtime_ns == stamp
    other = write_checkpoint(tmp_path / "other.pth", 0.25)
    with pytest.raises(WeightsError, match=r"siamac-vgg16\.pt is there already, with other weights: --repla"):
        convert(other)
    assert weights_digest(first.path) == digest
    assert convert(other, overwrite=True).written
    assert weights_digest(first.path) != digest
    assert [path.name for path in first.path.parent.iterdir()] == ["siamac-vgg16.pt"]


def test_the_same_source_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    one, other = (convert(checkpoint, tmp_path / name).path for name in ("one.pt", "other.pt"))
    assert one.read_bytes() == other.read_bytes()


def test_a_write_that_fails_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, _: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        convert(checkpoint, tmp_path / "out" / "ours.pt")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"net.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.write(checkpoint, "data/net.pth")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(checkpoint, "net/net.pth")
    path = convert(archive, tmp_path / "ours.pt").path
    assert path.read_bytes() == convert(checkpoint, tmp_path / "plain.pt").path.read_bytes()
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=r"cannot (unpack|read) .*net\.(tar\.gz|zip): .*ownload it again"):
        convert(archive, tmp_path / "ours.pt")


def test_archives_reach_nowhere_else(checkpoint: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "net.tar.gz", "w:gz") as packed:
        packed.add(checkpoint, "../../outside.pth")
    with pytest.raises(WeightsError, match=r"cannot unpack .*net\.tar\.gz: .*outside"):
        convert(tmp_path / "net.tar.gz", tmp_path / "ours.pt")
    (tmp_path / "link.pth").symlink_to(checkpoint)
    with tarfile.open(tmp_path / "net.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "link.pth", "net.pth")
    with pytest.raises(WeightsError, match=r"cannot unpack .*: net\.pth is a link"):
        convert(tmp_path / "net.tar.gz", tmp_path / "ours.pt")


def test_several_checkpoints_or_none(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"should hold one checkpoint, .*and has none"):
        convert(folder)
    for name in ("a.pth", "b.pt"):
        (folder / name).write_bytes(checkpoint.read_bytes())
    with pytest.raises(WeightsError, match=r"should hold one checkpoint, .*and has a\.pth, b\.pt"):
        convert(folder)
    (folder / "b.pt").unlink()
    assert convert(folder, tmp_path / "ours.pt").written


def test_a_missing_source_is_found_in_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"there is no .*net\.pt: landbridge weights list says what there is"
    ):
        convert(tmp_path / "net.pt")
    for name in ("delf_gld_20190411", "delf_gld_20190411.tar.gz"):
        with pytest.raises(WeightsError, match=r"download it from https://.*/delf_gld_20190411\.tar\.gz"):
            convert(tmp_path / name)


def test_the_checksum_in_a_name(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = next(one for one in PUBLISHED if one.name.startswith("retrievalSfM120k-vgg16"))
    source = tmp_path / known.file
    source.write_bytes(checkpoint.read_bytes())
    with pytest.raises(WeightsError, match=r"which by its name should begin with b4dcdc6: download it again"):
        convert(source)
    done = convert(source, checked=False)
    assert done.path.name == "gem-vgg16.pt"
    assert load_metadata(done.path)["source"] == "retrievalSfM120k-vgg16-gem-b4dcdc6"
    digits = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:7]
    monkeypatch.setattr(
        module, "published", lambda name: replace(known, sha256=digits) if name == known.file else None
    )
    assert not convert(source).written


def test_the_catalogue() -> None:
    assert len({one.name for one in PUBLISHED}) == len(PUBLISHED)
    for one in PUBLISHED:
        assert published(one.file) is published(one.name) is one
        assert one.address.startswith(("https://", "http://cmp.felk.cvut.cz/"))
        assert one.sha256 is None or one.file.endswith(f"-{one.sha256}.pth")
    assert published("Resnet-101-AP-GeM.pt.zip") is published("Resnet101-AP-GeM")
    assert published("net.pt") is None
    made = {one.makes for one in PUBLISHED}
    needed = {
        weights.file: weights.published
        for card in CARDS.values()
        for weights in card.configuration.weights()
        if isinstance(weights, StoredWeights)
    }
    assert made <= needed.keys()
    for file in made:  # what the messages say is in the catalogue, and makes the file
        known = published(needed[file])
        assert known is not None
        assert known.makes == file
    thresholds = {one.name: one.score_threshold for one in PUBLISHED if one.score_threshold}
    assert thresholds == {
        "delf_v1_20171026": 100,
        "delf_gld_20190411": 100,
        "r50delg_gldv2clean_20200914": 454.6,
        "r50delg_gld_20200814": 175,
        "r101delg_gldv2clean_20200914": 357.48,
        "r101delg_gld_20200814": 166.1,
    }


def test_what_is_no_archive_and_no_checkpoint(tmp_path: Path) -> None:
    page = tmp_path / "delf_v1_20171026.tar.gz"
    page.write_text("<html>not found</html>")
    with pytest.raises(WeightsError, match=r"cannot unpack .*\.tar\.gz: not a gzip file; download it again"):
        convert(page)
