"""The photos that rows of somebody's collection name by path or URL, read in memory and extracted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from connector.companion import Id
from connector.errors import ConnectorError
from connector.roots import Roots
from connector.rows import batches
from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import Photo, PhotoError, decode_photo
from extractor.threads import in_threads

_BATCH = 32
_READERS = 8
"""Photos that are fetched at once; their servers keep one waiting."""

_Batch = tuple[dict[Id, ImageFeatures], dict[Id, str]]


@dataclass(frozen=True, eq=False)
class RowPhotos:
    """Where the photos of rows are, and what extracts them.

    Attributes:
        field: of a row, that holds the path or URL.
        roots: where photos may be.
        extractor: gives the extractor, when the first photo comes.
    """

    field: str
    roots: Roots
    extractor: Callable[[], Extractor]

    def features(self, rows: Mapping[Id, Mapping[str, Any]]) -> Iterator[_Batch]:
        """The features of the rows' photos, and why others have none, some rows at a time."""
        extractor = self.extractor()

        def read(id_: Id) -> Photo | str:
            return self._read(rows[id_].get(self.field), extractor.longest_side)

        for ids in batches(list(rows), _BATCH):
            photos = dict(zip(ids, in_threads(read, ids, workers=_READERS), strict=True))
            readable = [(str(id_), photo) for id_, photo in photos.items() if isinstance(photo, Photo)]
            extracted = iter(extractor.extract_batch(readable))
            features = {id_: next(extracted) for id_, photo in photos.items() if isinstance(photo, Photo)}
            yield features, {id_: photo for id_, photo in photos.items() if isinstance(photo, str)}

    def _read(self, place: Any, longest_side: int) -> Photo | str:
        if not isinstance(place, str) or not place:
            return f"its field {self.field!r} holds no path or URL, but {place!r}"
        try:
            return decode_photo(self.roots.read(place), place, longest_side)
        except ConnectorError as error:
            return str(error)
        except PhotoError as error:
            return f"{place!r}: {error.reason}"
