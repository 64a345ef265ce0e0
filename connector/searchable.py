"""What a search of somebody's collection needs: an index of their vectors, and that it is loaded."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

from connector.client import Client
from connector.errors import InvalidInputError, NotLoadedError

_METRICS = ("COSINE", "IP", "L2")
_holders: Counter[tuple[str, str]] = Counter()
_lock = threading.Lock()


def index_of(client: Client, name: str, field: str) -> dict[str, Any]:
    """Their index of a field: `index_type`, `metric_type` and `params`.

    Raises:
        NotLoadedError: there is none.
        InvalidInputError: its metric ranks nothing here.
    """
    names = client.call("list_indexes", collection_name=name, field_name=field)
    if not names:
        raise NotLoadedError(
            f"{field!r} of collection {name!r} has no index, which a search needs: make one with "
            "create_index, and load the collection"
        )
    index = client.call("describe_index", collection_name=name, index_name=names[0])
    if index["metric_type"] not in _METRICS:
        raise InvalidInputError(
            f"{field!r} of collection {name!r} has the metric {index['metric_type']}: COSINE, IP or L2 is "
            "needed"
        )
    return {**index, "params": dict(index)}


def hold(client: Client, name: str, *, may_load: bool) -> bool:
    """See that a collection is loaded; whether it is to be let go of at the end, as nobody else loaded it.

    Raises:
        NotLoadedError: it is not, and may not be.
    """
    with _lock:
        state = str(client.call("get_load_state", collection_name=name)["state"])
        if state != "Loaded":
            if not may_load:
                raise NotLoadedError(
                    f"collection {name!r} is not loaded ({state}), and Landbridge loads nothing of yours: "
                    f"call load_collection({name!r}) first"
                )
            client.call("load_collection", collection_name=name)
        elif not _holders[_place(client, name)]:
            return False
        _holders[_place(client, name)] += 1
        return True


def let_go(client: Client, name: str) -> None:
    """Release a collection that was held, when nobody in this process holds it any more."""
    with _lock:
        _holders[_place(client, name)] -= 1
        if not _holders[_place(client, name)]:
            client.call("release_collection", collection_name=name)


def _place(client: Client, name: str) -> tuple[str, str]:
    return (str(Path(client.uri).resolve()) if client.lite else client.uri), name
