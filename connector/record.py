"""What a collection knows of an image besides its descriptors, and what a search says of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from connector.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Source:
    """The file that an image was made of.

    Attributes:
        path: where it lies, as the user wrote it or relative to a root; text of at most 4096 bytes.
        file_bytes: its size.
        modified_ns: its time of modification in nanoseconds.
    """

    path: str
    file_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the collection knows of an image besides its descriptors.

    Attributes:
        image_id: the image.
        path: see `Source`.
        width: pixels of the original photo.
        height: pixels of the original photo.
        keypoints: number of local features.
        file_bytes: see `Source`.
        modified_ns: see `Source`.
        digest: hex hash of the stored features; changes when they do.
    """

    image_id: str
    path: str
    width: int
    height: int
    keypoints: int
    file_bytes: int
    modified_ns: int
    digest: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The record in a row of Milvus, which has other fields besides."""
        return cls(**{field: row[field] for field in RECORD_FIELDS})

    @property
    def source(self) -> Source:
        """The file, for comparison with the one on disk."""
        return Source(self.path, self.file_bytes, self.modified_ns)


RECORD_FIELDS = list(Record.__dataclass_fields__)


class Hit(NamedTuple):
    """An image that a search found, and the cosine of its embedding and the query's."""

    image_id: str
    similarity: float


def check_text(what: str, text: str, limit: int) -> None:
    """Whether Milvus can hold a text.

    Raises:
        InvalidInputError: it has more bytes than `limit`, or is not valid Unicode.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"{what} is not valid text ({text!r}): rename the file") from None
    if size > limit:
        raise InvalidInputError(f"{what} has {size} bytes, Milvus takes {limit}: shorten it ({text[:60]!r}…)")


def check_distinct(records: Sequence[Record]) -> None:
    """Whether each record is of another image.

    Raises:
        InvalidInputError: an id comes twice.
    """
    seen: set[str] = set()
    for record in records:
        if record.image_id in seen:
            raise InvalidInputError(
                f"image {record.image_id!r} comes twice in one batch: give each image its own id"
            )
        seen.add(record.image_id)
