"""Published weights that are known: where they are, under which licence, and what they become here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A file of others.

    Attributes:
        file: its name there.
        what: it holds.
        address: where it is.
        licence: of the repository it is published with; none of them says more about the weights.
        makes: the weights file of ours that it becomes.
        sha256: what its SHA-256 begins with, in hexadecimal; None where nothing is known of it.
        score_threshold: of local features, as its authors set it; None where there are none.
    """

    file: str
    what: str
    address: str
    licence: str
    makes: str
    sha256: str | None = None
    score_threshold: float | None = None

    @property
    def name(self) -> str:
        """What it is called without the endings of its file: also the folder that an archive unpacks to."""
        return _stem(self.file)


_TENSORFLOW = "https://storage.googleapis.com/delf"
_CMP = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"
_DRIVE = "https://drive.google.com/open?id="


def _tensorflow(name: str, what: str, makes: str, score_threshold: float) -> Published:
    file = f"{name}.tar.gz"
    return Published(
        file, what, f"{_TENSORFLOW}/{file}", "Apache-2.0", makes, score_threshold=score_threshold
    )


def _cnnimageretrieval(folder: str, name: str, digits: str, what: str, makes: str) -> Published:
    file = f"{name}-{digits}.pth"
    return Published(file, what, f"{_CMP}/{folder}/{file}", "MIT", makes, digits)


def _naver(name: str, drive: str, what: str, makes: str) -> Published:
    return Published(
        f"{name}.pt", what, _DRIVE + drive, "see the repository naver/deep-image-retrieval", makes
    )


PUBLISHED = (
    _tensorflow("delf_v1_20171026", "DELF, Landmarks (ICCV 2017)", "delf-resnet50.pt", 100.0),
    _tensorflow("delf_gld_20190411", "DELF, Google Landmarks v1 (CVPR 2019)", "delf-gld-resnet50.pt", 100.0),
    _tensorflow("r50delg_gldv2clean_20200914", "DELG, ResNet-50, GLDv2-clean", "delg-resnet50.pt", 454.6),
    _tensorflow("r50delg_gld_20200814", "DELG, ResNet-50, Google Landmarks v1", "delg-resnet50.pt", 175.0),
    _tensorflow("r101delg_gldv2clean_20200914", "DELG, ResNet-101, GLDv2-clean", "delg-resnet101.pt", 357.48),
    _tensorflow("r101delg_gld_20200814", "DELG, ResNet-101, Google Landmarks v1", "delg-resnet101.pt", 166.1),
    _naver("Resnet101-AP-GeM", "1UWJGDuHtzaQdFhSMojoYVQjmCXhIwVvy", "DIR, AP loss, GeM", "dir-resnet101.pt"),
    _naver(
        "Resnet101-AP-GeM-LM18",
        "1r76NLHtJsH-Ybfda4aLkUIoW3EEsi25I",
        "DIR, AP loss, GeM, Google Landmarks v1",
        "dir-resnet101.pt",
    ),
    _naver(
        "Resnet101-TL-GeM", "1vhm1GYvn8T3-1C4SPjPNJOuTU9UxKAG6", "DIR, triplet loss, GeM", "dir-resnet101.pt"
    ),
    _naver(
        "Resnet101-TL-MAC", "13MUGNwn_CYGZvqDBD8FGD8fVYxThsSDg", "DIR, triplet loss, MAC", "dir-resnet101.pt"
    ),
    _naver("Resnet50-AP-GeM", "1oPtE_go9tnsiDLkWjN4NMpKjh-_md1G5", "DIR, AP loss, GeM", "dir-resnet50.pt"),
    _cnnimageretrieval(
        "retrieval-SfM-120k",
        "retrievalSfM120k-vgg16-gem",
        "b4dcdc6",
        "VGG16, GeM, learned whitening",
        "gem-vgg16.pt",
    ),
    _cnnimageretrieval(
        "retrieval-SfM-120k",
        "retrievalSfM120k-resnet101-gem",
        "b80fb85",
        "ResNet-101, GeM, learned whitening",
        "gem-resnet101.pt",
    ),
    _cnnimageretrieval(
        "retrieval-SfM-120k",
        "rSfM120k-tl-resnet101-gem-w",
        "a155e54",
        "ResNet-101, GeM, whitening layer",
        "gem-resnet101.pt",
    ),
    _cnnimageretrieval(
        "gl18",
        "gl18-tl-resnet101-gem-w",
        "a4d43db",
        "ResNet-101, GeM, whitening layer, Google Landmarks v1",
        "gem-resnet101.pt",
    ),
    _cnnimageretrieval(
        "retrieval-SfM-120k",
        "rSfM120k-tl-resnet50-gem-w",
        "97bf910",
        "ResNet-50, GeM, whitening layer",
        "gem-resnet50.pt",
    ),
    _cnnimageretrieval(
        "gl18",
        "gl18-tl-resnet50-gem-w",
        "83fdc30",
        "ResNet-50, GeM, whitening layer, Google Landmarks v1",
        "gem-resnet50.pt",
    ),
)
"""All that `landbridge weights list` knows. No size is known of any, and no whole SHA-256."""


def published(name: str) -> Published | None:
    """The known file of this name, with or without the endings; None for others."""
    return next((one for one in PUBLISHED if one.name == _stem(name)), None)


def _stem(file: str) -> str:
    for ending in (".zip", ".tar.gz", ".tgz", ".pth", ".pt"):
        file = file.removesuffix(ending)
    return file.replace("Resnet-", "Resnet")  # the authors of DIR write both
