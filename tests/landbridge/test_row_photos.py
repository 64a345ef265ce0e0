"""Photos of rows, whatever sends their bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from connector.errors import PhotoUnavailableError
from landbridge.row_photos import RowPhotos


class Site:
    """Where bytes lie by URL."""

    def __init__(self, photos: dict[str, bytes]) -> None:
        self.photos = photos

    def read(self, place: str) -> bytes:
        if place not in self.photos:
            raise PhotoUnavailableError(f"{place!r} is not sent: status 404")
        return self.photos[place]


def jpeg(size: tuple[int, int], orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_upright_and_of_their_own_size(toy: Any) -> None:
    site = Site({"https://p/a.jpg": jpeg((640, 480)), "https://p/b.jpg": jpeg((640, 480), orientation=6)})
    photos = RowPhotos("url", site, toy.ToyExtractor)
    ((features, reasons),) = photos.features({7: {"url": "https://p/a.jpg"}, 8: {"url": "https://p/b.jpg"}})
    assert {id_: (image.image_id, image.size) for id_, image in features.items()} == {
        7: ("7", (640, 480)),
        8: ("8", (480, 640)),
    }
    assert reasons == {}


def test_reasons_stand_beside_features(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landbridge.row_photos._BATCH", 2)
    site = Site({"a": jpeg((40, 30)), "b": b"", "c": jpeg((40, 30))[:200], "d": jpeg((50, 40))})
    rows = {id_: {"url": id_} for id_ in "xabcd"} | {"n": {}}
    found = list(RowPhotos("url", site, toy.ToyExtractor).features(rows))
    assert [[*features, *reasons] for features, reasons in found] == [["a", "x"], ["b", "c"], ["d", "n"]]
    assert found[2][0]["d"].size == (50, 40)
    reasons = {id_: why for _, some in found for id_, why in some.items()}
    assert reasons.pop("c").startswith("'c': damaged or truncated")
    assert reasons == {
        "x": "'x' is not sent: status 404",
        "b": "'b': the file is empty",
        "n": "its field 'url' holds no path or URL, but None",
    }
