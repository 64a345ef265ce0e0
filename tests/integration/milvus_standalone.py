"""A real Milvus standalone for the tests: the `milvus` wheel's server in namespaces of its own.

The server binds every interface it sees, so it sees one alone: the loopback of its own namespace. A socket
that listens on the loopback of the tests is handed into the namespace and relayed to it. Nothing else is
reachable, and when this process or its parent dies, the kernel ends all that ran in the namespace.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import lzma
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PORT = 19530
TOKEN = "root:Milvus"


class Standalone:
    """A server with its data in `folder`, started at construction; `settings` are those of its configuration.

    Attributes:
        uri: where clients of this machine reach it; stays the same over `kill` and `start`.
    """

    def __init__(self, folder: Path, binaries: Path, **settings: str | int) -> None:
        self.folder, self.binaries, self.settings = folder, binaries, settings
        self._port = 0
        self.start()

    @staticmethod
    def unavailable() -> str:
        """Why no server can be started here; empty when one can."""
        if importlib.util.find_spec("milvus") is None:
            return "no Milvus server: pip install --no-deps milvus==2.3.5"
        if not shutil.which("unshare"):
            return "no Milvus server: it needs the command unshare (package util-linux)"
        if subprocess.run([*_namespaces(), "true"], capture_output=True).returncode:
            return (
                "no Milvus server: network namespaces are forbidden here: be root, or allow user namespaces"
            )
        return ""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server, on the data it had if it ran before."""
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(64)
            self._port = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [
                    *_namespaces(),
                    sys.executable,
                    __file__,
                    self.folder,
                    self.binaries,
                    str(listener.fileno()),
                    json.dumps(self.settings),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )

    def wait(self, seconds: float = 120) -> None:
        """Wait until the server answers.

        Raises:
            TimeoutError: it does not; the message ends with its log.
        """
        from connector.client import Client
        from connector.errors import UnreachableError

        deadline = time.monotonic() + seconds
        while True:
            try:
                Client(self.uri, token=TOKEN, timeout=5).close()
            except UnreachableError as error:
                if time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                    raise TimeoutError(f"the Milvus server did not start: {error}\n{log}") from None
                time.sleep(0.2)
            else:
                return

    def kill(self) -> None:
        """SIGKILL the server and all that belongs to it."""
        self._process.kill()
        self._process.communicate()  # its output ends when the last process of the namespace is gone


def _namespaces() -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _raise_loopback() -> None:
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, siocgifflags, request))[1]
        fcntl.ioctl(control, siocsifflags, struct.pack("16sh14x", b"lo", flags | iff_up))


def _unpack(binaries: Path) -> None:
    packed = Path(importlib.util.find_spec("milvus").origin).parent / "data" / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    for source in packed.glob("*.lzma"):
        target = binaries / source.stem
        if not target.exists():
            with tempfile.NamedTemporaryFile(dir=binaries, delete=False) as part:
                part.write(lzma.decompress(source.read_bytes()))
            Path(part.name).chmod(0o755)
            Path(part.name).rename(target)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 18):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()

    try:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", PORT)
    except ConnectionError:
        writer.close()
        return
    await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))


async def _serve(
    folder: Path, binaries: Path, listener: socket.socket, settings: dict[str, str | int]
) -> None:
    from milvus import MilvusServerConfig

    _raise_loopback()
    _unpack(binaries)
    config = MilvusServerConfig(data_dir=str(folder), proxy_port=PORT)
    config.set("log.level", "warn")
    config.set("authorization_enabled", True)
    config.set("common.session.ttl", 5)  # after a kill, serve again in seconds
    for name, value in settings.items():
        config.set(name, value)
    config.resolve()
    with (folder / "server.log").open("ab") as log:
        server = await asyncio.create_subprocess_exec(
            binaries / "milvus", "run", "standalone",
            cwd=folder,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": "9091",
                "MILVUS_RUN_DIR": str(folder / "run"),
                "LD_LIBRARY_PATH": str(binaries),
            },
        )  # fmt: skip
    async with await asyncio.start_server(_relay, sock=listener):
        parent_gone = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await asyncio.wait(
            [asyncio.ensure_future(parent_gone), asyncio.ensure_future(server.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
    os._exit(0)


if __name__ == "__main__":
    handed = socket.socket(fileno=int(sys.argv[3]))
    asyncio.run(_serve(Path(sys.argv[1]), Path(sys.argv[2]), handed, json.loads(sys.argv[4])))
