from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractor import photo as photo_module
from extractor.photo import (
    Photo,
    PhotoError,
    PhotoTooLargeError,
    decode_photo,
    find_photos,
    photo_bytes,
    read_photo,
)

# EXIF 2.32, tag 274: the side of the upright picture on which the file's row 0 and column 0 lie.
ROW_AND_COLUMN_ZERO = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What a camera writes for an upright picture, straight from the table above."""
    row_zero, column_zero = ROW_AND_COLUMN_ZERO[orientation]
    stored = upright if row_zero in ("top", "bottom") else np.swapaxes(upright, 0, 1)
    if row_zero in ("bottom", "right"):
        stored = stored[::-1]
    if column_zero in ("bottom", "right"):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def four_corners(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """Red, green, blue and white quarters: every orientation looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return pixels


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG file whose header promises any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_every_orientation_gives_the_same_upright_pixels(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    upright = four_corners()
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(as_stored(upright, orientation)).save(path, exif=exif(orientation), **options)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, upright)
    assert photo.size == (60, 40)
    assert photo.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_reduced_jpeg(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    stored = as_stored(four_corners(400, 601), orientation)
    Image.fromarray(stored).save(path, exif=exif(orientation), quality=95, subsampling=0)
    photo = read_photo(path, 60)
    assert photo.size == (601, 400)
    assert photo.pixels.shape == (40, 60, 3)
    assert photo.scale == (601 / 60, 10.0)
    expected = four_corners()
    for y, x in ((5, 5), (5, 54), (34, 5), (34, 54)):
        np.testing.assert_allclose(photo.pixels[y, x], expected[y, x], atol=6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_spoil_a_photo(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(four_corners()).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0junk")
    assert read_photo(path).size == (60, 40)


def test_pillow_warnings_are_silenced(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(four_corners()).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0junk")
    opening = "import sys; from PIL import Image; Image.open(sys.argv[1]).getexif()"
    reading = "import sys; from extractor.photo import read_photo; read_photo(sys.argv[1])"
    bare, ours = (
        subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        ).stderr
        for code in (opening, reading)
    )
    assert "Warning" in bare  # else this test proves nothing
    assert ours == ""


def test_grey_and_transparent_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8)).save(path)
    np.testing.assert_array_equal(read_photo(path).pixels[..., 1], [[0, 100], [200, 255]])
    # Alpha 0 is white, 255 the colour, 51 (a fifth) one fifth colour and four fifths white.
    Image.fromarray(np.array([[[0, 0], [0, 255], [0, 51]]], np.uint8), "LA").save(path)
    np.testing.assert_array_equal(read_photo(path).pixels[0, :, 2], [255, 0, 204])
    rgba = np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [0, 100, 255, 51]]], np.uint8)
    Image.fromarray(rgba, "RGBA").save(path)
    np.testing.assert_array_equal(read_photo(path).pixels[0], [[255, 255, 255], [200, 0, 0], [204, 224, 255]])


def test_palette_files(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_photo(tmp_path / "a.png").pixels[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    )
    image.save(tmp_path / "b.png", transparency=bytes([255, 0, 255]))
    np.testing.assert_array_equal(
        read_photo(tmp_path / "b.png").pixels[0], [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    )
    image.save(tmp_path / "c.gif", save_all=True, append_images=[Image.new("P", (3, 1), 2)])
    np.testing.assert_array_equal(read_photo(tmp_path / "c.gif").pixels[0, 0], [10, 20, 30])


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.array([[0, 257, 25700, 65535, 300]], np.uint16)).save(path)
    np.testing.assert_array_equal(read_photo(path).pixels[0, :, 0], [0, 1, 100, 255, 1])


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 0, 25700, 257, 32896, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    np.testing.assert_array_equal(read_photo(path).pixels[0], [[255, 0, 100], [1, 128, 255]])


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    cmyk = np.zeros((32, 64, 4), np.uint8)
    cmyk[:, :32] = (0, 255, 255, 0)  # no cyan, full magenta and yellow: red
    path = tmp_path / "a.jpg"
    Image.fromarray(cmyk, "CMYK").save(path, quality=95)
    assert b"Adobe" in path.read_bytes()[:200]
    pixels = read_photo(path).pixels
    np.testing.assert_allclose(pixels[16, 8], [255, 0, 0], atol=4)
    np.testing.assert_allclose(pixels[16, 56], [255, 255, 255], atol=4)


def test_bilevel_and_bmp(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.bmp").pixels[0], [[255, 255, 255], [0, 0, 0]])


@pytest.mark.parametrize("size", [(1601, 1203), (1600, 1200), (999, 1333), (2401, 800)])
def test_reduced_decoding_keeps_every_point_in_its_place(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    y, x = np.mgrid[:height, :width]
    centres = [(0.1 * width, 0.2 * height), (0.93 * width, 0.15 * height), (0.9 * width, 0.9 * height)]
    spot = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 20.0**2)) for cx, cy in centres)
    path = tmp_path / "a.jpg"
    Image.fromarray((255 * spot).clip(0, 255).astype(np.uint8)).save(path, quality=95)
    photo = read_photo(path, 400)
    assert photo.size == size
    assert max(photo.pixels.shape) == 400
    grey = photo.pixels[..., 0].astype(float)
    sx, sy = photo.scale
    v, u = np.mgrid[: grey.shape[0], : grey.shape[1]]
    for cx, cy in centres:
        near = grey * (np.hypot((u + 0.5) * sx - 0.5 - cx, (v + 0.5) * sy - 0.5 - cy) < 60)
        found = [((c * near).sum() / near.sum() + 0.5) * s - 0.5 for c, s in ((u, sx), (v, sy))]
        np.testing.assert_allclose(found, (cx, cy), atol=0.25)


def test_reduction_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(stripes).save(path)
        inner = read_photo(path, 100).pixels[10:-10, 10:-10].astype(float)
        assert np.abs(inner - 127.5).max() < 6


def test_small_photos_are_not_enlarged(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(four_corners()).save(path)
    photo = read_photo(path, 1024)
    assert photo.pixels.shape == (40, 60, 3)
    assert photo.reduced(60) is photo
    assert photo.reduced(30).pixels.shape == (20, 30, 3)
    assert photo.reduced(30).size == (60, 40)
    assert photo.reduced(30).scale == (2.0, 2.0)


def test_photo_refuses_other_pixels() -> None:
    for pixels in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
            Photo(pixels, (4, 4))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_photos_from_bytes_are_as_from_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    Image.fromarray(as_stored(four_corners(400, 600), 6)).save(path, kind, exif=exif(6))
    for longest_side in (None, 90):
        one, other = decode_photo(photo_bytes(path), "a", longest_side), read_photo(path, longest_side)
        assert one.size == other.size == (600, 400)
        assert np.array_equal(one.pixels, other.pixels)


def test_photos_from_bytes_may_be_limited(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(path)
    assert decode_photo(photo_bytes(path), "a", max_pixels=2400).size == (60, 40)
    with pytest.raises(PhotoTooLargeError, match=r"^a: 60 x 40 is more than 0.0024 megapixels$"):
        decode_photo(photo_bytes(path), "a", max_pixels=2399)
    with pytest.raises(PhotoError, match=r"^a: the file is empty$"):
        decode_photo(b"", "a")
    with pytest.raises(PhotoError, match="no such file"):
        photo_bytes(tmp_path / "b.png")


def failure(path: Path) -> str:
    with pytest.raises(PhotoError) as caught:
        read_photo(path, 256)
    error = caught.value
    assert error.path == path
    assert str(error) == f"{path}: {error.reason}"
    assert "\n" not in error.reason
    assert len(error.reason) < 200
    return error.reason


def test_what_is_no_photo(tmp_path: Path) -> None:
    assert failure(tmp_path / "missing.jpg") == "no such file"
    assert failure(tmp_path) == "a folder, not a photo"
    (tmp_path / "empty.jpg").touch()
    assert failure(tmp_path / "empty.jpg") == "the file is empty"
    (tmp_path / "text.jpg").write_text("this is a text file, whatever its name says\n" * 20)
    assert failure(tmp_path / "text.jpg").startswith("not a photo in a format that is read")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert failure(tmp_path / "pipe.jpg") == "not a regular file"
    assert failure(tmp_path / ("n" * 300)) == "cannot be opened: File name too long"


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(four_corners()).save(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root reads everything, so chmod proves nothing
    assert failure(path) == "no permission to read it"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert failure(path).startswith(("damaged or truncated: ", "not a photo"))


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = bytearray(path.read_bytes())
    data[5000:5100] = bytes(100)
    path.write_bytes(bytes(data))
    assert failure(path).startswith("damaged or truncated: ")


def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_claiming(60_000, 60_000))
    assert "179 megapixels" in failure(path)
    path.write_bytes(png_claiming(13_380, 13_375))
    assert "179 megapixels" in failure(path)  # 530 pixels too many


def test_pixel_limit_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(four_corners()).save(path)
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 2400)
    assert read_photo(path).size == (60, 40)
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 2399)
    assert failure(path).startswith("60 x 40 is more than")


def test_no_pixels_and_extreme_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_claiming(0, 10))
    failure(path)
    Image.new("RGB", (1, 10_000)).save(path)
    assert failure(path) == "1 x 10000 is too narrow: more than 50 to 1"
    Image.new("RGB", (500, 10)).save(path)
    assert read_photo(path, 100).pixels.shape == (2, 100, 3)
    Image.new("RGB", (1, 1)).save(path)
    assert read_photo(path).size == (1, 1)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_pixel_types_without_a_known_range(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (20, 20)).save(tmp_path / "a.tiff")
    assert failure(tmp_path / "a.tiff") == f"pixels of type {mode} are not read: convert it to 8-bit RGB"


def test_photo_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(PhotoError(Path("a.jpg"), "the file is empty")))
    assert (error.path, error.reason) == (Path("a.jpg"), "the file is empty")


def test_find_photos(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "photos"
    for name in (
        "b.JPG",
        "a.jpeg",
        "sub/deep/c.png",
        "sub/d.webp",
        "phone.HEIC",
        "notes.txt",
        "jpg",
        ".hidden.jpg",
        ".thumbnails/e.jpg",
        "../outside/secret.jpg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "folder.jpg").mkdir()
    (root / "leaving.jpg").symlink_to(outside / "secret.jpg")
    (root / "leaving").symlink_to(outside)
    (root / "inside.jpg").symlink_to(root / "b.JPG")
    (root / "dangling.jpg").symlink_to(root / "nothing.jpg")
    (root / "sub" / "loop").symlink_to(root)
    found = [str(path.relative_to(root)) for path in find_photos(root)]
    assert found == ["a.jpeg", "b.JPG", "inside.jpg", "phone.HEIC", "sub/d.webp", "sub/deep/c.png"]
    assert find_photos(str(root)) == find_photos(root)
    (tmp_path / "link").symlink_to(root)
    assert len(find_photos(tmp_path / "link")) == 6
    assert find_photos(root / "folder.jpg") == []
    with pytest.raises(NotADirectoryError, match="nowhere: no such folder"):
        find_photos(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        find_photos(root / "b.JPG")
