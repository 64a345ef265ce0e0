"""Which photos are learnt from: drawn by a hash of their ids, so that a resumed run draws the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from extractor.extractor import LEARNING_SAMPLE, Extractor


def hash_sample(image_ids: Iterable[str], count: int) -> list[str]:
    """So many ids, or all where there are fewer: those whose hashes are the smallest."""
    return sorted(image_ids, key=lambda image_id: hashlib.blake2b(image_id.encode()).digest())[:count]


def learn_from_sample(
    extractor: Extractor, photos: Mapping[str, str | Path], progress: Callable[[str, int, int], None]
) -> None:
    """Let an extractor learn what it must, if anything, from a sample of photos by id.

    Raises:
        ValueError: see `Extractor.learn`.
    """
    if not extractor.learns:
        return
    sample = hash_sample(photos, LEARNING_SAMPLE)

    def paths() -> Iterator[Path]:
        for done, image_id in enumerate(sample, 1):
            progress("learn", done, len(sample))
            yield Path(photos[image_id])

    extractor.learn(paths())
