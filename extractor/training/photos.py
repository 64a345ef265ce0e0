"""The photos to train on: which landmarks are held back, and batches in a seeded order."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.photo import PhotoError
from extractor.threads import available_cores
from extractor.training.views import Pressed, View

_AHEAD = 3
_VALIDATION_SHARE = 0.1
_MOST_VALIDATION_LANDMARKS = 250

LabelledPhoto = tuple[Path, str]
"""A photo and the landmark it shows."""


@dataclass(frozen=True)
class Split:
    """Photos to learn from, and photos of other landmarks to find one another.

    Attributes:
        training: sorted by path.
        validation: likewise; empty if nothing is held back.
        landmarks: of the training photos, sorted; a landmark's place is its class.
    """

    training: tuple[LabelledPhoto, ...]
    validation: tuple[LabelledPhoto, ...]
    landmarks: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Tells two splits of photos apart; the folder in which all of them lie does not matter."""
        digest = hashlib.sha256()
        for part in (self.training, self.validation):
            digest.update(b"photos")
            for path, label in part:
                digest.update(f"{path.name}\0{label}\n".encode())
        return digest.hexdigest()[:16]


def split(photos: Sequence[LabelledPhoto], seed: int, held_back: int | None = None) -> Split:
    """Hold landmarks back for validation.

    Args:
        photos: labelled photos in any order.
        seed: decides which landmarks.
        held_back: how many, of those with two photos or more; None for a tenth of all, at least two and at
            most 250, and none where that would leave fewer than two to learn from.

    Raises:
        ValueError: there are fewer than two landmarks, none has two photos, or too few would be left.
    """
    counts = Counter(label for _, label in photos)
    if len(counts) < 2:
        raise ValueError(
            f"training needs photos of at least 2 landmarks, these are {len(photos)} photos of {len(counts)}"
        )
    several = sorted(label for label, count in counts.items() if count > 1)
    if not several:
        raise ValueError(
            f"each of the {len(counts)} landmarks has one photo: training needs landmarks with 2 or more"
        )
    if held_back is None:
        held_back = min(max(round(_VALIDATION_SHARE * len(counts)), 2), _MOST_VALIDATION_LANDMARKS)
        if held_back > min(len(several), len(counts) - 2):
            held_back = 0
    if held_back == 1 or held_back < 0:
        raise ValueError(f"retrieval needs 2 validation landmarks or more, or 0 for none; got {held_back}")
    if held_back > min(len(several), len(counts) - 2):
        raise ValueError(
            f"cannot hold back {held_back} of {len(counts)} landmarks, {len(several)} of which have 2 photos "
            "or more: at least 2 must be left to learn from"
        )
    chosen = set(np.random.default_rng([seed, 0]).permutation(several)[:held_back].tolist())
    ordered = sorted(photos, key=lambda photo: str(photo[0]))
    return Split(
        tuple(photo for photo in ordered if photo[1] not in chosen),
        tuple(photo for photo in ordered if photo[1] in chosen),
        tuple(sorted(counts.keys() - chosen)),
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Photos that are shown together.

    Attributes:
        pixels: uint8 [B, side, side, 3].
        labels: int64 [B], classes.
        failed: photos that could not be read, and why; they are not among the B.
    """

    pixels: Tensor
    labels: Tensor
    failed: dict[Path, str]


class Batches:
    """Endless batches; what a batch holds follows from the seed and its number alone.

    Every photo is shown once before any is shown again, each time in another order, and batches go on from
    the end of one order to the start of the next. So the number of batches drawn is all that must be known
    to go on after an interruption.

    Args:
        photos: labelled photos.
        classes: class of each landmark.
        view: what is shown of a photo.
        size: photos in a batch.
        seed: of orders and views.
        threads: that read photos; None for one per core.
    """

    def __init__(
        self,
        photos: Sequence[LabelledPhoto],
        classes: dict[str, int],
        view: View,
        size: int,
        seed: int,
        threads: int | None = None,
    ) -> None:
        self._photos = photos
        self._classes = classes
        self._view = view
        self._size = size
        self._seed = seed
        self._threads = threads or available_cores()
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def drawn(self, number: int) -> list[tuple[int, int]]:
        """Round and photo of each place of a batch."""
        start, n = number * self._size, len(self._photos)
        return [
            (place // n, int(self._shuffled(place // n)[place % n]))
            for place in range(start, start + self._size)
        ]

    def starting(self, number: int) -> Generator[Batch]:
        """Batches from a number on, read ahead."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="photos")
        waiting: deque[list[tuple[int, Future[NDArray[np.uint8] | PhotoError]]]] = deque()
        try:
            while True:
                while len(waiting) < _AHEAD:
                    drawn = self.drawn(number)
                    waiting.append([(photo, pool.submit(self._take, turn, photo)) for turn, photo in drawn])
                    number += 1
                taken = [(self._photos[photo], future.result()) for photo, future in waiting.popleft()]
                yield _collated(taken, self._classes, self._view.side)
        finally:
            pool.shutdown(cancel_futures=True)

    def _shuffled(self, turn: int) -> NDArray[np.int64]:
        if self._order[0] != turn:
            rng = np.random.default_rng([self._seed, 1, turn])
            self._order = (turn, rng.permutation(len(self._photos)))
        return self._order[1]

    def _take(self, turn: int, photo: int) -> NDArray[np.uint8] | PhotoError:
        return _taken(self._view, self._photos[photo][0], np.random.default_rng([self._seed, 2, turn, photo]))


def in_order(
    photos: Sequence[LabelledPhoto], classes: dict[str, int], side: int, size: int
) -> Iterator[Batch]:
    """Every photo once, whole, in batches of a size."""
    view = Pressed(side)
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="photos") as pool:
        for start in range(0, len(photos), size):
            part = photos[start : start + size]
            taken = pool.map(lambda photo: _taken(view, photo[0], np.random.default_rng(0)), part)
            yield _collated(list(zip(part, taken, strict=True)), classes, side)


def _taken(view: View, path: Path, rng: np.random.Generator) -> NDArray[np.uint8] | PhotoError:
    try:
        return view.take(path, rng)
    except PhotoError as error:
        return error


def _collated(
    taken: Sequence[tuple[LabelledPhoto, NDArray[np.uint8] | PhotoError]], classes: dict[str, int], side: int
) -> Batch:
    shown = [(classes[label], square) for (_, label), square in taken if not isinstance(square, PhotoError)]
    pixels = np.empty((len(shown), side, side, 3), np.uint8)
    for place, (_, square) in enumerate(shown):
        pixels[place] = square
    labels = torch.tensor([label for label, _ in shown], dtype=torch.int64)
    failed = {error.path: error.reason for _, error in taken if isinstance(error, PhotoError)}
    return Batch(torch.from_numpy(pixels), labels, failed)
