"""The folder of the verified pairs of a collection."""

from __future__ import annotations

import hashlib
from pathlib import Path

from platformdirs import user_cache_path


def matches_folder(uri: str, name: str, tenant: str = "", db_name: str = "") -> Path:
    """Where the verified pairs of a collection are, unless a folder was given.

    Args:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        name: the collection; not an alias of it.
        tenant: whose photos.
        db_name: database on the server.
    """
    whose = f"-{hashlib.sha256(tenant.encode()).hexdigest()[:16]}" if tenant else ""
    if "://" not in uri:
        return Path(f"{uri}.matches") / f"{name}{whose}"
    place = hashlib.sha256(f"{uri}\n{db_name}\n{name}".encode()).hexdigest()[:16]
    return user_cache_path("landbridge") / "matches" / f"{name}-{place}{whose}"
