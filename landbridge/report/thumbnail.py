"""Photos as small JPEG data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from extractor.photo import read_photo

_QUALITY = 66


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A photo made small.

    Attributes:
        data_uri: The picture, ``data:image/jpeg;base64,…``, without metadata.
        size: Width and height of the original in pixels, EXIF orientation applied.
    """

    data_uri: str
    size: tuple[int, int]


def thumbnail(path: Path, longest_side: int) -> Thumbnail:
    """Read a photo and encode it again with at most ``longest_side`` pixels along its longest side.

    Raises:
        PhotoError: If the file is missing or cannot be read as a photo.
    """
    photo = read_photo(path, longest_side)
    encoded = io.BytesIO()
    Image.fromarray(photo.pixels).save(encoded, "JPEG", quality=_QUALITY, optimize=True, progressive=True)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}", photo.size)
