"""The two deployments of Milvus that the connector is measured on, each with no data."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from connector.client import Client, MilvusClient
from connector.collection import Collection
from connector.errors import UnreachableError

ROOT = Path(__file__).parents[1]
BACKENDS = ("lite", "server")
DIMENSION = 1280
TOKEN = "root:Milvus"
EXTRACTOR = "benchmark@1"


@dataclass(frozen=True)
class Backend:
    name: str
    uri: str
    token: str = ""

    def create(self, name: str, dimension: int = DIMENSION, **more: Any) -> Collection:
        return Collection.create(
            self.uri,
            name,
            token=self.token,
            dimension=dimension,
            extractor=EXTRACTOR,
            timeout=120,
            drop_old=True,
            **more,
        )

    @contextmanager
    def bare(self) -> Iterator[MilvusClient]:
        """A plain client; on Milvus Lite, of the server that Landbridge's clients share."""
        with Client(self.uri, token=self.token, timeout=120) as client:
            yield client._client

    def drop_all(self) -> None:
        with self.bare() as bare:
            for name in bare.list_collections(timeout=30):
                bare.drop_collection(name, timeout=30)


@contextmanager
def started(name: str, *, alone: bool = False) -> Iterator[Backend]:
    """Milvus with no data. `alone`: not in this process."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ending:
        if name == "server":
            server = standalone()(Path(folder), binaries())
            ending.callback(server.kill)
            backend = Backend(name, server.uri, TOKEN)
        elif alone:
            port = free_port()
            command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1"]
            command += ["--port", str(port), "--data-dir", folder]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ending.callback(process.wait)
            ending.callback(process.kill)
            backend = Backend(name, f"http://127.0.0.1:{port}")
        else:
            yield Backend(name, f"{folder}/benchmark.db")
            return
        deadline = time.monotonic() + 120
        while True:
            try:
                Client(backend.uri, token=backend.token, timeout=5).close()
                break
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield backend


def standalone() -> Any:
    path = ROOT / "tests" / "integration" / "milvus_standalone.py"
    spec = importlib.util.spec_from_file_location("milvus_standalone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Standalone


def binaries() -> Path:
    """Where the tests have unpacked the server, or else the user's cache."""
    tests = ROOT / ".pytest_cache" / "d" / "milvus-2.3.5"
    return tests if tests.exists() else user_cache_path("landbridge") / "milvus-2.3.5"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
