"""What can go wrong between Landbridge and Milvus; every message names the input and the way out."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[object]) -> str:
    """The first of some names, for a message."""
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


class ConnectorError(Exception):
    """Base of all errors of this package."""


class UnreachableError(ConnectorError):
    """No server, no usable path, or no answer in time."""


class UntrustedError(UnreachableError):
    """TLS: one side does not trust the other, or only one of them speaks it."""


class AccessDeniedError(ConnectorError):
    """The server knows neither token nor user, or the user may not do this."""


class RefusedError(ConnectorError):
    """Milvus answered with an error of its own."""


class CollectionMissingError(ConnectorError):
    """There is no such collection."""


class NotLoadedError(ConnectorError):
    """A collection of somebody else's cannot be searched as it is, and Landbridge does not change it."""


class SchemaMismatchError(ConnectorError):
    """A collection of this name exists and is not a Landbridge collection of this version."""


class FingerprintMismatchError(ConnectorError):
    """Features of one extractor met a collection of another."""


class DimensionMismatchError(ConnectorError):
    """Descriptors of one dimension met a collection of another."""


class InvalidInputError(ConnectorError, ValueError):
    """An image, a vector or a name that Milvus cannot store as it is."""


class ImagesMissingError(ConnectorError, KeyError):
    """Images that were asked for by id are not in the collection."""

    __str__ = Exception.__str__


class CollectionChangedError(ConnectorError):
    """Images came or went while something was made of all of them."""


class CorruptPayloadError(ConnectorError):
    """Stored bytes are incomplete or not what was written."""


class OutsideRootsError(ConnectorError):
    """A path or URL leads to where photos may not be read from."""


class PhotoUnavailableError(ConnectorError):
    """There is no photo at a path or URL, or it cannot be had."""
