from __future__ import annotations

import base64
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connector.client import Client, MilvusException
from connector.errors import ConnectorError, InvalidInputError, RefusedError, UnreachableError, UntrustedError
from connector.tls import TLS

SECRET = "hunter2-Xy"
SHAPES = [SECRET, base64.b64encode(f"ada:{SECRET}".encode()).decode()]


class Everything(logging.Handler):
    """Keeps all that is logged anywhere, at any level, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(0)
        self.setFormatter(logging.Formatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record) + repr(record.args))


@pytest.fixture
def logged() -> Iterator[Everything]:
    handler = Everything()
    loggers = [logging.getLogger(name) for name in ("", "pymilvus", "milvus_lite", "grpc", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(1)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def shown(error: BaseException) -> str:
    """All that a program may print of an error: chains, and the variables of every frame but the test's."""
    texts = [
        str(error),
        repr(error),
        repr(error.__cause__),
        repr(error.__notes__ if hasattr(error, "__notes__") else ""),
    ]
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    printed = traceback.TracebackException(type(error), error, frames, capture_locals=True)
    return "\n".join([*texts, *printed.format()])


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that takes connections and closes them."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "connect",
    [
        lambda address: Client(f"http://{address}", token=f"ada:{SECRET}", timeout=1),
        lambda address: Client(f"http://{address}", token=SECRET, timeout=1),
        lambda address: Client(f"http://ada:{SECRET}@{address}", timeout=1),
        lambda address: Client(f"https://ada:{SECRET}@{address}/db", timeout=1),
        lambda address: Client(f"http://ada:p/{SECRET}@{address}", timeout=1),
        lambda address: Client(f"http://ada:{SECRET}", timeout=1),
        lambda address: Client(f"http://ada:[{SECRET}@{address}", timeout=1),
        lambda address: Client(f"ada:{SECRET}@{address}", timeout=1),
        lambda address: Client(f"milvus://ada:{SECRET}@{address}", timeout=1),
        lambda address: Client(f"http://{address}", token=f"ada:{SECRET}", timeout=1, tls=TLS()),
        lambda address: Client(
            f"https://{address}", token=f"ada:{SECRET}", timeout=1, tls=TLS(ca_pem_path="none.pem")
        ),
    ],
)
def test_a_connection_that_fails_shows_no_secret(
    refusing: str, logged: Everything, capfd: pytest.CaptureFixture, connect: Callable[[str], Client]
) -> None:
    with pytest.raises(ConnectorError) as caught:
        connect(refusing)
    printed = capfd.readouterr()
    everything = "\n".join([shown(caught.value), *logged.lines, printed.out, printed.err])
    assert "Client" in everything
    for secret in SHAPES:
        assert secret not in everything


def test_a_call_that_fails_shows_no_secret(logged: Everything) -> None:
    class Fake:
        def query(self, **_: object) -> None:
            raise MilvusException(9, f"bad password {SECRET}, header {SHAPES[1]}")

    client = Client("http://milvus:19530", token=f"ada:{SECRET}", client=Fake())
    with pytest.raises(RefusedError, match=r"bad password \*\*\*, header \*\*\*") as caught:
        client.call("query")
    everything = "\n".join([shown(caught.value), repr(client), str(client), *logged.lines])
    for secret in SHAPES:
        assert secret not in everything


def test_a_password_with_colons_is_one_secret() -> None:
    class Fake:
        def query(self, **_: object) -> None:
            raise MilvusException(9, "pass:word:1 and word")

    client = Client("http://milvus:19530", token="ada:pass:word:1", client=Fake())
    with pytest.raises(RefusedError, match=r"\*\*\* and word"):
        client.call("query")


def test_a_program_that_dies_prints_no_secret(refusing: str) -> None:
    code = """
        import sys
        from connector.client import Client
        Client(sys.argv[1], token=sys.argv[2], timeout=1)
    """
    talk = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), f"http://{refusing}", f"ada:{SECRET}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "cannot connect to Milvus" in talk.stderr
    assert SECRET not in talk.stdout + talk.stderr


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ada:p@ss@milvus:19530/db", "https://milvus:19530/db"),
        ("http://milvus:19530", "http://milvus:19530"),
        ("tcp://token@milvus:19530", "tcp://milvus:19530"),
        ("photos@home/landmarks.db", "photos@home/landmarks.db"),
    ],
)
def test_addresses_are_shown_without_user_and_password(address: str, shown: str) -> None:
    assert Client(address, client=object()).uri == shown


def test_tls_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SERVER_PEM", "CA_PEM", "CLIENT_PEM", "CLIENT_KEY", "SERVER_NAME")
    for name in names:
        monkeypatch.delenv(f"MILVUS_{name}", raising=False)
    assert TLS.from_environment() == TLS()
    for name in names:
        monkeypatch.setenv(f"MILVUS_{name}", name)
    assert TLS.from_environment() == TLS(*names[:1], *names[1:])


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    text, none = str(tmp_path / "text.pem"), str(tmp_path / "none.pem")
    for tls, complaint in [
        (TLS(ca_pem_path=none), r"ca_pem_path '.*none\.pem' cannot be read: No such file"),
        (TLS(server_pem_path=text), r"text\.pem' holds no certificate in PEM format"),
        (TLS(client_pem_path=text), "client_pem_path and client_key_path belong together"),
        (TLS(client_key_path=text), "client_pem_path and client_key_path belong together"),
        (TLS(client_pem_path=text, client_key_path=text), "are not a certificate and its key"),
    ]:
        with pytest.raises(InvalidInputError, match=complaint):
            Client("https://127.0.0.1:9", tls=tls, timeout=1)
    with pytest.raises(InvalidInputError, match=r"tls was given with http://127\.0\.0\.1:9: write https://"):
        Client("http://127.0.0.1:9", tls=TLS(), timeout=1)


def test_who_is_not_there_is_not_blamed_for_tls() -> None:
    with pytest.raises(UnreachableError, match="check the address, and that it is up") as caught:
        Client("https://127.0.0.1:9", timeout=1)
    assert not isinstance(caught.value, UntrustedError)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--help"]])
def test_the_command_line_shows_no_secret(refusing: str, arguments: list[str]) -> None:
    talk = subprocess.run(
        [sys.executable, "-m", "landbridge", "info", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"MILVUS_URI": f"http://ada:{SECRET}@{refusing}", "MILVUS_TOKEN": f"ada:{SECRET}"},
    )
    shown = talk.stdout + talk.stderr
    assert "cannot connect to Milvus" in shown or "MILVUS_TOKEN" in shown
    assert SECRET not in shown
