"""A Milvus client whose every call has a time limit and whose failures say what to do.

Works alike on a Milvus Lite path and on a server. Uses `MilvusClient` alone.
"""

from __future__ import annotations

import base64
import logging
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, urlsplit

import grpc  # type: ignore[import-untyped]

from connector.errors import (
    AccessDeniedError,
    CollectionMissingError,
    ConnectorError,
    InvalidInputError,
    RefusedError,
    SchemaMismatchError,
    UnreachableError,
    UntrustedError,
)
from connector.tls import TLS, speaks

# pymilvus reads MILVUS_URI when it is imported and fails when it names a Milvus Lite path.
_milvus_uri = os.environ.get("MILVUS_URI")
os.environ["MILVUS_URI"] = ""
try:
    from pymilvus import DataType, MilvusClient, MilvusException
    from pymilvus.exceptions import DataNotMatchException
finally:
    if _milvus_uri is None:
        del os.environ["MILVUS_URI"]
    else:
        os.environ["MILVUS_URI"] = _milvus_uri

__all__ = ["Client", "DataType", "MilvusClient", "MilvusException"]

# Both libraries print the traceback of every failed call, which Landbridge raises as its own error. Levels
# that a program has chosen stay.
for _library, _untouched in (("pymilvus", logging.WARNING), ("milvus_lite", logging.NOTSET)):
    if logging.getLogger(_library).level == _untouched:
        logging.getLogger(_library).setLevel(logging.CRITICAL)

_COLLECTION_NOT_FOUND = 100
_NO_CONNECTION = 2
_NOT_SERVING_YET = frozenset({_NO_CONNECTION, 101, 103, 106, 401, 503, 901, 902})
"""No connection, not loaded, loading, recovering, no replica, no channel, no node: a server that restarts."""
_NO_DATABASE = re.compile(r"database not found|database '.*' does not exist")
_NO_ROOM = re.compile(r"no space left|quota exceeded|quota exhausted", re.IGNORECASE)
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

_WRITES = frozenset({"insert", "upsert", "delete"})
_OWN_WRITES = 60.0
"""Seconds after which a write of this process is older than what a Bounded read may miss."""

_USER = re.compile(r"^([^/]*//)?.*@")
"""User and password of an address, or of what was meant as one."""

_lite_users: Counter[Path] = Counter()
_lite_lock = threading.Lock()


class Client:
    """A connection to Milvus.

    Attributes:
        uri: where Milvus is, without user and password.
        lite: whether it is Milvus Lite.
        timeout: seconds that one call may take, retries included.
        creating: held while a collection is made, so that no thread forgets what another has not finished.
    """

    creating = threading.Lock()
    _written: ClassVar[dict[tuple[str, str], float]] = {}

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        client: MilvusClient | None = None,
        must_exist: bool = False,
        tls: TLS | None = None,
    ) -> None:
        """Connect.

        Args:
            uri: path of a Milvus Lite folder, ending in .db (made when missing), or http(s)://host:port.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: use this MilvusClient, and leave it open at the end; `uri` then only names it.
            must_exist: do not make a Milvus Lite folder that is not there.
            tls: how both sides prove who they are, at an https:// address; from the environment when None.

        Raises:
            UnreachableError: nothing answers at `uri`, or the path cannot be opened.
            UntrustedError: TLS fails.
            InvalidInputError: a file of `tls` cannot be used, or `tls` came with another address.
            AccessDeniedError: the server does not accept the token.
        """
        self.timeout = timeout
        self._path: Path | None = None
        self._tls: TLS | None = None
        uri = os.fspath(uri)
        parts = _parsed(uri)
        # Tools that print the variables of a traceback are to find no secret in this function's.
        if parts is None:
            self.uri = "?"
            del uri, token
            raise UnreachableError("the address of Milvus cannot be read: write it like http://host:19530")
        self.lite = parts.scheme not in ("http", "https", "tcp", "unix")
        self.uri = uri if uri.endswith(".db") else _USER.sub(r"\1", uri)
        self._secrets = _shapes(token, token.partition(":")[2], parts.password or "")
        self._owned, self._closed = client is None, False
        if client is not None:
            self._client = client
            return
        if failure := self._connect(uri, token, db_name, must_exist, tls):
            del uri, token, parts
            raise failure

    def _connect(
        self, uri: str, token: str, db_name: str, must_exist: bool, tls: TLS | None
    ) -> ConnectorError | None:
        """What keeps the connection from being made, without a traceback; None when it is made."""
        # A connection that no other client shares, so that none closes ours: `alias` in pymilvus 2.6.
        options: dict[str, Any] = {"dedicated": True, "alias": f"landbridge-{uuid.uuid4()}"}
        try:
            if self.lite:
                uri = self._serve_lite(self.uri, must_exist)
                # Milvus Lite drops clients that ping it while they have nothing to ask, during a long
                # extraction.
                options["grpc_options"] = {
                    "grpc.enable_http_proxy": 0,
                    "grpc.keepalive_time_ms": 2**31 - 1,
                    "grpc.keepalive_permit_without_calls": False,
                }
            elif self.uri.lower().startswith("https:"):
                self._tls = TLS.from_environment() if tls is None else tls
                options |= self._tls.options()
            if tls is not None and self._tls is None:
                raise InvalidInputError(f"tls was given with {self.uri}: write https:// to use it")
            self._client = MilvusClient(
                uri, token=token, db_name=db_name, timeout=min(self.timeout, 10.0), **options
            )
        except ConnectorError as error:
            return error.with_traceback(None)
        except (MilvusException, grpc.RpcError) as error:
            self._release_lite()
            return self._explain("connect", error)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.uri!r})"

    def call(self, operation: str, **arguments: Any) -> Any:
        """Call a method of MilvusClient within the time limit.

        While the server says that it is not serving yet (it does for half a minute after a restart), the call
        is repeated with growing pauses.

        Raises:
            ConnectorError: the call failed; the class says how.
        """
        if self._closed:
            raise UnreachableError(f"the connection to {self.uri} was closed: open the collection again")
        deadline = time.monotonic() + self.timeout
        pause = 0.1
        while True:
            try:
                left = max(deadline - time.monotonic(), 0.1)
                answer = getattr(self._client, operation)(timeout=left, **arguments)
                if operation in _WRITES:
                    self._written[self.uri, arguments["collection_name"]] = time.monotonic()
                return answer
            except (MilvusException, grpc.RpcError) as error:
                waiting = _diagnose(error)[0] in _NOT_SERVING_YET
                if not waiting or time.monotonic() + pause > deadline:
                    raise self._explain(operation, error, arguments.get("collection_name", "")) from None
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def at_level(self, wanted: str, collection: str) -> str:
        """The consistency level for a read at the one that is wanted.

        Session asks for what this process wrote, and for nothing where it wrote nothing: a server that was
        just restarted then gives the rows that it has replayed so far, and does not say so. There, Bounded
        asks for all but the last seconds, and costs no more.
        """
        wrote = self._written.get((self.uri, collection), -math.inf)
        return "Bounded" if wanted == "Session" and time.monotonic() - wrote > _OWN_WRITES else wanted

    def version(self) -> tuple[int, int]:
        """Major and minor version of the server."""
        text = self.call("get_server_version")
        found = re.search(r"(\d+)\.(\d+)", text)
        if found is None:
            raise RefusedError(f"Milvus at {self.uri} says that its version is {text!r}: this is none")
        return int(found[1]), int(found[2])

    def forget_unfinished(self, collection: str) -> None:
        """Remove the folder without a schema that Milvus Lite keeps of a creation that was cut short.

        With it there, a collection of this name could neither be made nor dropped. Hold `creating`.
        """
        if self._path is None:
            return
        for parent in (self._path, *self._path.glob("databases/*")):
            folder = parent / "collections" / collection
            if folder.is_dir() and not (folder / "schema.json").exists():
                shutil.rmtree(folder)

    def close(self) -> None:
        """Close the connection; the last one to a Milvus Lite path also stops serving it."""
        if self._owned and not self._closed:
            self._client.close()
            self._release_lite()
        self._closed = True

    def _explain(self, operation: str, error: Exception, collection: str = "") -> ConnectorError:
        code, text = _diagnose(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        target = f"{operation} {collection}".strip()
        if code in _DENIED:
            return AccessDeniedError(
                f"Milvus at {self.uri} denied {target}: check token, user and database ({text})"
            )
        if code == _COLLECTION_NOT_FOUND:
            return CollectionMissingError(
                f"Milvus at {self.uri} has no collection {collection!r} ({target}): was it dropped? "
                "Index into it again, or give another name"
            )
        if _NO_DATABASE.search(text):
            return RefusedError(
                f"Milvus at {self.uri} does not have this database ({text}): give another db_name, or "
                "create it"
            )
        if operation == "connect" or code == _NO_CONNECTION:
            if self._tls and (complaint := self._tls.complaint(self.uri)):
                return UntrustedError(f"no TLS connection to Milvus at {self.uri}: {complaint}")
            if not self._tls and not self.lite and speaks(self.uri):
                return UntrustedError(f"Milvus at {self.uri} speaks TLS: write https://")
            return UnreachableError(
                f"cannot connect to Milvus at {self.uri}: check the address, and that it is up ({text})"
            )
        if _NO_ROOM.search(text):
            return RefusedError(
                f"Milvus at {self.uri} has no room for {target} ({text}): make room on its disk, or "
                "raise its quota, and do it again; what was written before is kept"
            )
        if code in _NOT_SERVING_YET:
            return UnreachableError(
                f"Milvus at {self.uri} did not serve {target} within {self.timeout:g} s ({text}): "
                "it may be restarting, or the collection was released; wait a minute and open it again"
            )
        if isinstance(code, grpc.StatusCode) or "Retry timeout" in text:
            return UnreachableError(
                f"Milvus at {self.uri} did not answer {target} within {self.timeout:g} s: "
                f"check that it is up, or allow a longer timeout ({text})"
            )
        if isinstance(error, DataNotMatchException):
            return SchemaMismatchError(
                f"collection {collection!r} was altered while it was open ({text}): open it again, or "
                "index into another name"
            )
        return RefusedError(f"Milvus at {self.uri} refused {target}: {text}")

    def _serve_lite(self, uri: str, must_exist: bool) -> str:
        """Start Milvus Lite on a path, or join the one that this process runs; its local address."""
        from milvus_lite.server_manager import server_manager_instance  # type: ignore[import-untyped]

        path = Path(uri).expanduser().absolute()
        if path.suffix != ".db":
            raise UnreachableError(
                f"{uri!r} is neither a path ending in .db nor an address like http://host:19530"
            )
        if path.exists() and not path.is_dir():
            raise UnreachableError(f"{path} is a file; Milvus Lite keeps a folder there: give another path")
        if must_exist and not path.exists():
            raise UnreachableError(f"there is no {path}: index photos into it first, or give another path")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(
                f"cannot make {path}: {error.strerror}: give a path that can be written"
            ) from None
        with _lite_lock:
            foreign = not _lite_users[path] and _is_locked(path)
            address = server_manager_instance.start_and_get_uri(str(path))
            if address is None:
                raise UnreachableError(
                    f"{path} is in use by another process: Milvus Lite serves one process at a time; "
                    "end the other one, or run a Milvus server"
                    if _is_locked(path)
                    else f"{path} cannot be opened: check that it can be written and is a Milvus Lite folder"
                )
            if not foreign:
                _lite_users[path] += 1
                self._path = path
        return str(address)

    def _release_lite(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        if self._path is None:
            return
        with _lite_lock:
            _lite_users[self._path] -= 1
            if not _lite_users[self._path]:
                server_manager_instance.release_server(str(self._path))
        self._path = None


def _parsed(uri: str) -> SplitResult | None:
    """The parts of an address, or of a path; None when it cannot be one."""
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _shapes(*secrets: str) -> list[str]:
    """Secrets as they are, and as they travel; longer ones, which may hold others, first."""
    travelling = (base64.b64encode(secret.encode()).decode() for secret in secrets)
    return sorted({*secrets, *travelling} - {""}, key=len, reverse=True)


def _diagnose(error: Exception) -> tuple[Any, str]:
    """Code and text of a failure; pymilvus hides a refused token inside a failed connection."""
    rpc = error if isinstance(error, grpc.RpcError) else error.__cause__
    if isinstance(rpc, grpc.RpcError) and (rpc is error or rpc.code() in _DENIED):
        return rpc.code(), str(rpc.details())
    return getattr(error, "code", None), str(getattr(error, "message", error))


def _is_locked(path: Path) -> bool:
    import fcntl

    try:
        with (path / "LOCK").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
