"""Payloads of any size in the rows of one collection, a chunk a row: packed features, and named blobs.

A payload is there when all its chunks are, of one writing; a writer that dies leaves it absent or old. The
first chunk says how many there are; rows behind the last one, left by a longer payload, count for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cachetools import LRUCache

from connector import filters, payload
from connector.rows import KEYS_PER_READ, Rows, batches
from extractor.features import ImageFeatures

_USUAL_CHUNKS = 2
_IMAGES_PER_READ = 25
_READERS = 4
_REMEMBERED = 10_000
"""More payloads than a process writes before a server shows them to every read."""

_Chunks = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A payload to be written.

    Attributes:
        owner: hex key of what it belongs to.
        payload: the bytes.
        record: text to be kept with it.
        digest: of the payload, where it is known.
    """

    owner: str
    payload: bytes
    record: str = ""
    digest: str = ""


class PayloadStore:
    """The payloads of a collection that has the layout `schema.payloads`."""

    def __init__(self, rows: Rows, *, concurrent: bool) -> None:
        """Read and write payloads.

        Args:
            rows: the collection.
            concurrent: whether it answers several reads at once: servers do, Milvus Lite does not.
        """
        self.rows = rows
        self._written: LRUCache[str, int] = LRUCache(_REMEMBERED)
        self._images_per_read = _IMAGES_PER_READ if concurrent else KEYS_PER_READ // _USUAL_CHUNKS

    def put(self, entries: Iterable[Entry]) -> None:
        """Write payloads, and remove what earlier, longer ones left behind their last chunks."""
        owners = {entry.owner: _rows(entry) for entry in entries}
        # On a server, a read that sees what was just written waits for as long as writing a hundred images
        # takes. So what this object wrote is remembered, and nothing is waited for.
        beyond = [f"{owner}:{len(rows)}" for owner, rows in owners.items()]
        found = self.rows.read(beyond, ["pk", "owner", "chunks"], consistency_level="Eventually")
        ends = Counter({row["owner"]: row["chunks"] for row in found.values()})
        left = [
            f"{owner}:{chunk}"
            for owner, rows in owners.items()
            for chunk in range(len(rows), max(ends[owner], self._written.get(owner, 0)))
        ]
        if left:
            self.rows.delete(left)
        rows = list(chain.from_iterable(owners.values()))
        self._written.update((owner, len(rows)) for owner, rows in owners.items())
        self.rows.write(rows, [len(row["payload"]) + 4 * len(row["record"]) + 256 for row in rows])

    def get(self, owner: str, label: str) -> bytes | None:
        """The payload of an owner; None when there is none, or when its writing was cut short.

        Args:
            owner: hex key.
            label: what errors call it.

        Raises:
            CorruptPayloadError: it is not what was written.
        """
        chunks = self._chunks([owner], ["payload"]).get(owner, {})
        if not chunks or _gap(chunks):
            return None
        data = bytes(payload.join(_texts(chunks), owner=label))
        if payload.digest(data) != chunks[0]["digest"]:
            raise payload.damaged(label, "its digest is wrong")
        return data

    def features(self, image_ids: Mapping[str, str], extractor: str) -> dict[str, ImageFeatures]:
        """Unpack the features of images, by owner; those that are not there are left out.

        Args:
            image_ids: the image of each owner.
            extractor: fingerprint that the features get.

        Raises:
            CorruptPayloadError: what is stored of one is incomplete or damaged.
        """
        if len(image_ids) <= self._images_per_read:
            return self._unpacked(image_ids, extractor)

        def read(block: Sequence[tuple[str, str]]) -> dict[str, ImageFeatures]:
            return self._unpacked(dict(block), extractor)

        found: dict[str, ImageFeatures] = {}
        with ThreadPoolExecutor(_READERS) as readers:
            for part in readers.map(read, batches(list(image_ids.items()), self._images_per_read)):
                found |= part
        return found

    def whole(self, owners: Sequence[str]) -> set[str]:
        """Those of the owners whose payload is there."""
        return {owner for owner, chunks in self._chunks(owners, []).items() if not _gap(chunks)}

    def records(self, bounds: str) -> dict[str, str]:
        """Records of whole payloads by owner, of those in a range of `Rows.ranges` that have one."""
        grouped: dict[str, dict[int, dict[str, Any]]] = {}
        for row in self.rows.query(bounds, ["owner", "chunk", "chunks", "digest", "record"]):
            grouped.setdefault(row["owner"], {})[row["chunk"]] = row
        return {
            owner: chunks[0]["record"]
            for owner, chunks in grouped.items()
            if not _gap(chunks) and chunks[0]["record"]
        }

    def delete(self, owners: Sequence[str]) -> None:
        """Remove payloads, damaged ones too; unknown owners are no error."""
        for batch in batches(owners, KEYS_PER_READ):
            rows = self.rows.query(filters.is_in("owner", batch), ["pk"])
            self.rows.delete([row["pk"] for row in rows])

    def _unpacked(self, image_ids: Mapping[str, str], extractor: str) -> dict[str, ImageFeatures]:
        found = {}
        for owner, chunks in self._chunks(list(image_ids), ["payload"]).items():
            label = f"image {image_ids[owner]!r}"
            if gap := _gap(chunks):
                raise payload.damaged(label, gap)
            joined = payload.join(_texts(chunks), owner=label)
            found[owner] = payload.unpack(joined, image_id=image_ids[owner], extractor=extractor)
        return found

    def _chunks(self, owners: Sequence[str], fields: Sequence[str]) -> dict[str, dict[int, dict[str, Any]]]:
        """Chunks by owner and number. Most owners have few, so those are asked for at once."""
        fields = ["pk", "chunks", "digest", *fields]
        keys = [f"{owner}:{chunk}" for owner in owners for chunk in range(_USUAL_CHUNKS)]
        rows = self.rows.read(keys, fields)
        more = [
            f"{owner}:{chunk}"
            for owner in owners
            if f"{owner}:0" in rows
            for chunk in range(_USUAL_CHUNKS, rows[f"{owner}:0"]["chunks"])
        ]
        if more:
            rows |= self.rows.read(more, fields)
        grouped: dict[str, dict[int, dict[str, Any]]] = {}
        for key, row in rows.items():
            owner, _, chunk = key.partition(":")
            grouped.setdefault(owner, {})[int(chunk)] = row
        return grouped


def _rows(entry: Entry) -> list[dict[str, Any]]:
    texts, digest = payload.split(entry.payload), entry.digest or payload.digest(entry.payload)
    return [
        {
            "pk": f"{entry.owner}:{chunk}",
            "owner": entry.owner,
            "chunk": chunk,
            "chunks": len(texts),
            "digest": digest,
            "record": "" if chunk else entry.record,
            "payload": text,
            "placeholder": [0.0, 0.0],
        }
        for chunk, text in enumerate(texts)
    ]


def _gap(chunks: _Chunks) -> str:
    """What keeps these chunks from being one whole payload; empty when nothing does."""
    count = chunks.get(0, next(iter(chunks.values())))["chunks"]
    absent = [number for number in range(count) if number not in chunks]
    if absent:
        return f"chunk {absent[0] + 1} of {count} is missing"
    if len({(chunks[number]["digest"], chunks[number]["chunks"]) for number in range(count)}) > 1:
        return "its chunks were written at different times"
    return ""


def _texts(chunks: _Chunks) -> list[str]:
    return [chunks[number]["payload"] for number in range(chunks[0]["chunks"])]
