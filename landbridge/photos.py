"""The photos of a folder and the ids that they go by."""

from __future__ import annotations

from pathlib import Path

from extractor.photo import find_photos


def photos_in(folder: Path) -> tuple[dict[str, Path], dict[Path, str]]:
    """Name every photo in a folder and its subfolders.

    An id is the path below the folder without suffix, so that the photos of a challenge go by the ids of
    its submissions; in the challenge's own layout `a/b/c/abc….jpg` the three folders are left out.

    Args:
        folder: where to look; one photo's path names that photo alone.

    Returns:
        Photos by id, and the photos left out with the reason: their id is taken by another.
    """
    if not folder.is_dir():
        return {folder.stem: folder}, {}
    photos: dict[str, Path] = {}
    refused: dict[Path, str] = {}
    for path in find_photos(folder):
        relative = path.relative_to(folder)
        sharded = relative.parts[:-1] == tuple(path.stem[:3]) and len(path.stem) > 3
        image_id = path.stem if sharded else relative.with_suffix("").as_posix()
        if image_id in photos:
            refused[path] = f"goes by the same id as {photos[image_id].name} ({image_id}): rename one of them"
        else:
            photos[image_id] = path
    return photos, refused
