"""Reading photos: any common file to upright 8-bit RGB of limited size, or one clear reason why not.

Importing this module silences Pillow's own warnings (odd metadata, large pictures): they name no file, and
what matters of them becomes a `PhotoError`.
"""

from __future__ import annotations

import os
import stat
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Photos of more pixels are refused before decoding: 512 MiB of RGB, where Pillow gives up too."""

MAX_ASPECT = 50
"""Longest side over shortest: a narrower picture is refused, for nothing is left of it when it is reduced."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""What is read (JPEG includes MPO); of an animation or a multi-page file the first picture."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
    | {".heic", ".heif", ".avif"}
)
"""What `find_photos` takes for a photo. HEIC and AVIF are here so as to be reported, not missed."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DRAFT_GAP = 1.5  # a JPEG is decoded at a reduced size of at least this times the size wanted

warnings.filterwarnings("ignore", module=r"PIL\.")


class PhotoError(Exception):
    """A file could not be read as a photo.

    Attributes:
        path: the file.
        reason: why, in one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class PhotoTooLargeError(PhotoError):
    """A photo has more pixels than are read."""


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright photo, perhaps reduced.

    Attributes:
        pixels: uint8 [H, W, 3], red green blue, contiguous.
        size: (width, height) in pixels of the original, EXIF orientation applied.

    Raises:
        ValueError: the pixels have another type or shape, or there are none.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"pixels must be uint8 [H, W, 3], got {pixels.dtype} {pixels.shape}")

    @property
    def scale(self) -> tuple[float, float]:
        """Original pixels per pixel, along x and y (they differ by rounding alone)."""
        height, width = self.pixels.shape[:2]
        return self.size[0] / width, self.size[1] / height

    def reduced(self, longest_side: int) -> Photo:
        """The same photo with at most so many pixels along its longest side, antialiased; never enlarged."""
        height, width = self.pixels.shape[:2]
        if max(width, height) <= longest_side:
            return self
        small = _limited((width, height), longest_side)
        image = Image.fromarray(self.pixels).resize(small, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return Photo(np.array(image), self.size)


def read_photo(path: str | Path, longest_side: int | None = None) -> Photo:
    """Read a photo upright, as 8-bit RGB.

    Grey, palette, CMYK and 16-bit files are converted (16 bits by their full range); what is transparent is
    laid on white; colour profiles are not applied.

    Args:
        path: a file in one of `FORMATS`, whatever its suffix.
        longest_side: pixels to which the longest side is reduced, antialiased; None keeps the original size.

    Raises:
        PhotoError: it is missing, unreadable, not a photo, damaged, larger than `MAX_PIXELS` or narrower than
            `MAX_ASPECT`.
    """
    path = Path(path)
    with _open_regular(path) as file:
        return _read(path, file, longest_side, MAX_PIXELS)


def decode_photo(
    data: bytes, name: str, longest_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Read a photo from the bytes of its file; see `read_photo`.

    Args:
        data: the file's content.
        name: stands for the path in errors.
        longest_side: pixels to which the longest side is reduced; None keeps the original size.
        max_pixels: photos of more pixels, at most `MAX_PIXELS`, are refused before they are decoded.

    Raises:
        PhotoError: as of `read_photo`.
        PhotoTooLargeError: it has more pixels.
    """
    if not data:
        raise PhotoError(Path(name), "the file is empty")
    return _read(Path(name), BytesIO(data), longest_side, min(max_pixels, MAX_PIXELS))


def photo_bytes(path: Path) -> bytes:
    """The content of a photo's file, not looked at.

    Raises:
        PhotoError: it is missing, empty, unreadable or no regular file.
    """
    with _open_regular(path) as file:
        return file.read()


def _read(path: Path, file: BinaryIO, longest_side: int | None, max_pixels: int) -> Photo:
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _decode(path, image, longest_side, max_pixels)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(path, f"not a photo in a format that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PhotoTooLargeError(path, f"more than {max_pixels / 1e6:.3g} megapixels") from None
    except MemoryError:
        raise PhotoError(path, "not enough memory to decode it") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise PhotoError(path, f"damaged or truncated: {' '.join(str(error).split())}") from error


def find_photos(folder: str | Path, *, links: bool = False) -> list[Path]:
    """Every photo in a folder and its subfolders, by suffix (`SUFFIXES`, in any case), sorted by path.

    Hidden files and folders are left out.

    Args:
        folder: where to look.
        links: follow links to folders and to files outside the folder too, but never in a circle.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: no such folder")
    inside = root.resolve()
    photos = []
    for parent, folders, files in os.walk(root, followlinks=links):
        folders[:] = [
            name for name in folders if not name.startswith(".") and not _leads_back(Path(parent, name))
        ]
        for name in files:
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_file() and (links or not path.is_symlink() or path.resolve().is_relative_to(inside)):
                photos.append(path)
    return sorted(photos)


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and any(folder.samefile(above) for above in folder.parents)


def _decode(path: Path, image: Image.Image, longest_side: int | None, max_pixels: int) -> Photo:
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoTooLargeError(path, f"{width} x {height} is more than {max_pixels / 1e6:.3g} megapixels")
    if width * height == 0:
        raise PhotoError(path, f"{width} x {height}: it has no pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotoError(path, f"{width} x {height} is too narrow: more than {MAX_ASPECT} to 1")
    small = (width, height) if longest_side is None else _limited((width, height), longest_side)
    extent = None
    if small != (width, height):
        # A JPEG can be decoded at 1/2, 1/4 or 1/8. The last column and row of that may reach beyond the
        # original, so the extent of the original in it goes on to the resampling.
        drafted = image.draft(None, (round(small[0] * _DRAFT_GAP), round(small[1] * _DRAFT_GAP)))
        extent = drafted[1] if drafted else None
    image.load()
    orientation = _orientation(image)
    upright = _rgb(path, image)
    if small != upright.size:
        upright = upright.resize(small, Image.Resampling.LANCZOS, box=extent, reducing_gap=2.0)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
        if orientation >= 5:
            width, height = height, width
    return Photo(np.array(upright), (width, height))


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; never wait for a pipe or a device."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError(path, "a folder, not a photo")
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError(path, "not a regular file")
        if status.st_size == 0:
            raise PhotoError(path, "the file is empty")
        return path.open("rb")
    except FileNotFoundError:
        raise PhotoError(path, "no such file") from None
    except PermissionError:
        raise PhotoError(path, "no permission to read it") from None
    except OSError as error:
        raise PhotoError(path, f"cannot be opened: {error.strerror}") from None


def _rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise PhotoError(path, f"pixels of type {image.mode} are not read: convert it to 8-bit RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; damaged metadata do not spoil a photo."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow's parsers raise
        return 1


def _limited(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    factor = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
