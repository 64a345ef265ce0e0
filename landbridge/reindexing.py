"""A new extractor behind the same name: photos indexed anew beside the old collection, then switched to.

Stopped at any moment, the same again goes on where it ended and comes to the same collection.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from connector.alias import Aliases
from connector.choices import Choices, tenants
from connector.collection import Collection
from connector.errors import (
    CollectionMissingError,
    FingerprintMismatchError,
    InvalidInputError,
    SchemaMismatchError,
)
from extractor.extractor import Extractor
from landbridge.collection_extractor import choose, load
from landbridge.index import Index
from landbridge.ingest import stored_whitening
from landbridge.matches_folder import matches_folder
from landbridge.retrieval import Progress, silent

_PASSES = 10
"""After so many, photos that a program keeps adding are left to the one after the switch."""


@dataclass
class Reindexed:
    """How far a name has come.

    Attributes:
        name: what readers open.
        old: the collection that was re-indexed.
        new: the collection made of it; the same as `old` when that is as it was asked for.
        behind: the collection that the name leads to now.
        photos: how many `new` holds, of all tenants.
        added: how many this call added to it.
        removed: how many it took out, for they had left `old`.
        verified: how many pairs of photos this call verified.
        missing: photos of `old` that are not in `new`, and why.
    """

    name: str
    old: str
    new: str
    behind: str
    photos: int = 0
    added: int = 0
    removed: int = 0
    verified: int = 0
    missing: dict[Path, str] = field(default_factory=dict)

    @property
    def switched(self) -> bool:
        """Whether the name leads to the new collection."""
        return self.behind == self.new


def reindex(
    uri: str | Path,
    name: str,
    extractor: str | Extractor,
    *,
    into: str | None = None,
    dimension: int | None = None,
    index_params: Mapping[str, Any] | None = None,
    switch: bool = True,
    allow_missing: bool = False,
    rename: bool = False,
    token: str = "",
    db_name: str = "",
    timeout: float = 30.0,
    progress: Progress = silent,
) -> Reindexed:
    """Index the photos of a collection by another extractor into a new one, and put that behind its name.

    The photos are read from where the collection says that they are. Readers of the name see the old
    collection until the new one is whole and its pairs are verified, and then the new one, from one search to
    the next. What is added to the old collection meanwhile is added to the new one before the switch; once
    more after it, for what came at that moment. The old collection stays as it is.

    Args:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        name: an alias. A collection of this name is indexed anew as well, but its name leads to it as long as
            it has it: see `rename`.
        extractor: registered name, or one that is ready.
        into: name of the new collection; by default the first of NAME_2, NAME_3 and so on that is free.
        dimension: to which global descriptors are whitened; by default as in the old collection, where the
            extractor gives more.
        index_params: of the new collection; by default those of the old one. So are consistency, tenants and
            time to live, which for the new collection begins now.
        switch: put the new collection behind the name at the end.
        allow_missing: do so although photos of the old collection are missing in it.
        rename: when `name` is a collection, rename that to NAME_1 (or the next that is free) at the end, so
            that the name can lead to the new one. Readers find neither for a moment.
        token: `token` or `user:password` of the server.
        db_name: database of the server.
        timeout: seconds that Milvus may take to answer.
        progress: told about the long steps.

    Raises:
        CollectionMissingError: there is neither an alias nor a collection of this name.
        InvalidInputError: the collection holds no photos, or none that is still there; or `into` is taken.
        ConnectorError: Milvus failed.
        ValueError: no extractor has this name, or it does not give so many dimensions.
    """
    place = str(uri)
    access: dict[str, Any] = {"token": token, "db_name": db_name, "timeout": timeout}
    wanted = _Wanted(load(None, choose(None, extractor)), dimension, index_params)
    with Aliases(place, **access) as aliases:
        if rename and (cut_short := aliases.put_aside(name)):
            aliases.load(cut_short[0])
            aliases.take_name(cut_short[0], name, cut_short[1])
        old = aliases.collection(name)
        whose = tenants(place, old, **access)
        if not whose:
            raise InvalidInputError(f"{old!r} holds no photos: index some first")
        if into in (None, old) and wanted.fits(place, old, whose[0], access):
            photos = sum(_count(place, old, tenant, access) for tenant in whose)
            return Reindexed(name, old, old, old, photos)
        if rename and old == name:
            aliases.check_unused(name)
        target = _target(aliases, name, into, lambda begun: wanted.fits(place, begun, whose[0], access))
        begun = target in aliases.names()
        aliases.appoint(name, target)
        done = Reindexed(name, old, target, old)
        moving = _Moving(place, access, wanted, begun, progress)
        for _ in range(_PASSES):
            if not moving.carry(done):
                break
        if switch and (allow_missing or not done.missing):
            aliases.load(target)
            if old != name:
                aliases.switch(name, target)
            elif rename:
                done.old = _free(aliases, name, 1)
                for tenant in whose:
                    _move_pairs(place, name, done.old, tenant, db_name)
                aliases.take_name(target, name, done.old)
            done.behind = aliases.collection(name)
            if done.switched:
                moving.carry(done, only_add=True)
    return done


def switch(
    uri: str | Path, name: str, collection: str, *, token: str = "", db_name: str = "", timeout: float = 30.0
) -> str | None:
    """Put a collection behind an alias, which is made when there is none of this name.

    Args:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        name: the alias.
        collection: made by Landbridge; it is loaded.
        token: `token` or `user:password` of the server.
        db_name: database of the server.
        timeout: seconds that Milvus may take to answer.

    Returns:
        The collection that was behind it; None when the alias is new.

    Raises:
        ConnectorError: there is no such collection, or the alias is one; or Milvus failed.
    """
    with Aliases(uri, token=token, db_name=db_name, timeout=timeout) as aliases:
        aliases.load(collection)
        return aliases.switch(name, collection)


def roll_back(
    uri: str | Path, name: str, *, token: str = "", db_name: str = "", timeout: float = 30.0
) -> tuple[str, str]:
    """Put the collection behind an alias that was there before the last switch.

    Args are those of `switch`.

    Returns:
        The collection that was behind it, and the one that is now.

    Raises:
        ConnectorError: there is no such alias, or it was never switched; or Milvus failed.
    """
    with Aliases(uri, token=token, db_name=db_name, timeout=timeout) as aliases:
        aliases.load(aliases.before(name))
        return aliases.collection(name), aliases.roll_back(name)


def drop(uri: str | Path, name: str, *, token: str = "", db_name: str = "", timeout: float = 30.0) -> None:
    """Drop a collection that no alias leads to, with all its photos' features and verified pairs.

    Args:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        name: the collection; not an alias of it.
        token: `token` or `user:password` of the server.
        db_name: database of the server.
        timeout: seconds that Milvus may take to answer.

    Raises:
        ConnectorError: it is an alias, or an alias leads to it, or it is not Landbridge's, or Milvus failed.
    """
    access: dict[str, Any] = {"token": token, "db_name": db_name, "timeout": timeout}
    with Aliases(uri, **access) as aliases:
        whose = tenants(str(uri), name, **access)
        aliases.drop_collection(name)
    for tenant in whose:
        shutil.rmtree(matches_folder(str(uri), name, tenant, db_name), ignore_errors=True)


@dataclass(frozen=True)
class _Wanted:
    """What a collection is to be made with; None is as in the old one."""

    extractor: Extractor
    dimension: int | None
    index_params: Mapping[str, Any] | None

    def fits(self, place: str, name: str, tenant: str, access: Mapping[str, Any]) -> bool:
        """Whether a collection is as it is wanted."""
        with Collection.open(place, name, tenant=tenant, **access) as collection:
            if self.dimension not in (None, collection.dimension):
                return False
            if self.extractor.learns and not collection.extractor.startswith(f"{self.extractor.name}-"):
                return False
            try:
                Choices.of(place, name, **access).check(self.index_params)
                load(collection, choose(collection, self.extractor))
            except (FingerprintMismatchError, SchemaMismatchError):
                return False
        return True

    def like(self, old: Choices, source: Collection) -> dict[str, Any]:
        """What `Index` takes to make a collection like an old one, but for what is wanted."""
        dimension, index = self.dimension, self.index_params
        if dimension is None:
            whitening = stored_whitening(source)
            whitened = whitening is not None and whitening.projection is not None
            if whitened and old.dimension < self.extractor.dimension:
                dimension = old.dimension
        if index is None:
            index = old.index_params
            same = (dimension or self.extractor.dimension) == old.dimension
            if index["index_type"].endswith("PQ") and not same:
                # Their parameters divide the dimension into parts.
                index = {part: index[part] for part in ("index_type", "metric_type")}
        return {
            "dimension": dimension,
            "index_params": index,
            "consistency_level": old.consistency_level,
            "ttl_seconds": old.ttl_seconds,
        }


@dataclass(frozen=True)
class _Moving:
    """Photos on their way from an old collection to a new one."""

    place: str
    access: dict[str, Any]
    wanted: _Wanted
    begun: bool
    progress: Progress

    def carry(self, done: Reindexed, *, only_add: bool = False) -> bool:
        """Bring the new collection to what the old one holds now; whether anything was to do."""
        before = done.added + done.removed
        done.photos, done.missing = 0, {}
        old = Choices.of(self.place, done.old, **self.access)
        for tenant in tenants(self.place, done.old, **self.access):
            whose = {"tenant": tenant, **self.access}
            with Collection.open(self.place, done.old, **whose) as source:
                photos = {record.image_id: Path(record.path) for record in source.published()}
                arriving = {record.image_id for record in source.staged()}
                votes = source.local.exists
                made = {} if self.begun else self.wanted.like(old, source)
            with Index(self.place, done.new, extractor=self.wanted.extractor, **made, **whose) as index:
                if not only_add:
                    done.removed += _take_out(index, photos.keys() | arriving)
                _ = index.extractor  # has learnt now what it learnt for photos that are there
                added = index.add(photos, self.progress)
                if votes and len(index):
                    index.build_local_index(self.progress)
                done.added += len(added.added)
                done.verified += added.verified
                done.photos += len(index)
                done.missing |= _missing(index, photos, added.failed)
        if not done.photos:
            raise InvalidInputError(
                f"no photo of {done.old!r} is where it was: bring them back, or index them from their new "
                "place first"
                if done.missing
                else f"{done.old!r} holds no photos: index some first"
            )
        return done.added + done.removed > before


def _take_out(index: Index, wanted: Set[str]) -> int:
    """Delete images that are not wanted; how many there were."""
    try:
        there = index.collection
    except CollectionMissingError:
        return 0
    left = {record.image_id for record in chain(there.published(), there.staged())} - wanted
    there.delete(sorted(left))
    return len(left)


def _missing(index: Index, photos: Mapping[str, Path], failed: Mapping[Path, str]) -> dict[Path, str]:
    """Those of the photos that are not in the index, and why."""
    if not failed:
        return {}
    there = {record.image_id for record in index.collection.published()} if len(index) else set()
    gone = {path for image_id, path in photos.items() if image_id not in there}
    return {path: failed.get(path) or failed[path.resolve()] for path in gone}


def _count(place: str, name: str, tenant: str, access: Mapping[str, Any]) -> int:
    with Collection.open(place, name, tenant=tenant, **access) as collection:
        return len(collection)


def _target(aliases: Aliases, name: str, into: str | None, fits: Callable[[str], bool]) -> str:
    """The collection to make: one that was begun and fits, or a new one."""
    begun, names = aliases.appointed(name), aliases.names()
    if into is None:
        return begun if begun and (begun not in names or fits(begun)) else _free(aliases, name, 2)
    if into in names and not (into == begun and fits(into)):
        raise InvalidInputError(
            f"there is {into!r} already, and it was not begun so from {name!r}: give a name that is free"
        )
    return into


def _free(aliases: Aliases, name: str, first: int) -> str:
    """The first of NAME_1, NAME_2 and so on, from a number on, that is free."""
    stem, taken = re.sub(r"_\d+$", "", name), aliases.names()
    return next(free for number in count(first) if (free := f"{stem}_{number}") not in taken)


def _move_pairs(place: str, name: str, aside: str, tenant: str, db_name: str) -> None:
    """Let the verified pairs of a collection follow its new name."""
    source, target = (matches_folder(place, one, tenant, db_name) for one in (name, aside))
    if source.exists():
        shutil.rmtree(target, ignore_errors=True)  # of a collection that is no longer there
        source.rename(target)
