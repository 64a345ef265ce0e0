from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connector.tls import TLS, speaks

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no certificates: it needs the command openssl"
)

CONFIGURATION = """
[ca]
default_ca = all
[all]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = names
copy_extensions = copy
[names]
commonName = supplied
"""


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, str]]:
    """Makes certificate and key that signed themselves, for this machine."""

    def make(last_year: str = "2099") -> tuple[str, str]:
        folder = tmp_path_factory.mktemp("certificates")
        (folder / "ca.cnf").write_text(CONFIGURATION)
        (folder / "index").touch()
        (folder / "serial").write_text("01")
        request = (
            "-subj",
            "/CN=milvus",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "key",
            "-out",
            "csr",
        )
        openssl(folder, "req", "-new", "-newkey", "rsa:2048", "-nodes", *request)
        dates = ("-startdate", "20200101000000Z", "-enddate", f"{last_year}0101000000Z")
        files = ("-config", "ca.cnf", "-keyfile", "key", "-in", "csr", "-out", "pem")
        openssl(folder, "ca", "-selfsign", "-batch", "-notext", *files, *dates)
        return str(folder / "pem"), str(folder / "key")

    return make


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on this machine that treats its connections as it is told."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    taken = server.accept()[0]
                except OSError:
                    return
                try:
                    answer(taken)
                except OSError:
                    pass  # it does not like its client either
                finally:
                    taken.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def encrypted(pem: str, key: str, clients: str = "") -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)

    def answer(taken: socket.socket) -> None:
        with context.wrap_socket(taken, server_side=True) as shaken:
            shaken.sendall(b"settings")

    return answer


def test_what_is_trusted_has_no_complaint(signed: Callable) -> None:
    pem, key = signed()
    with serving(encrypted(pem, key)) as uri:
        assert TLS(server_pem_path=pem).complaint(uri) == ""
        assert TLS(ca_pem_path=pem).complaint(uri) == ""
        assert speaks(uri)
    assert TLS(server_pem_path=pem).options() == {"secure": True, "server_name": "", "server_pem_path": pem}
    assert TLS("", pem, pem, key).options() == {
        "secure": True,
        "server_name": "",
        "ca_pem_path": pem,
        "client_pem_path": pem,
        "client_key_path": key,
    }


def test_a_certificate_that_has_expired(signed: Callable) -> None:
    pem, key = signed("2021")
    with serving(encrypted(pem, key)) as uri:
        complaint = TLS(server_pem_path=pem).complaint(uri)
    assert complaint.startswith("its certificate is not trusted: certificate has expired; check ca_pem_path")


def test_a_certificate_of_a_stranger(signed: Callable) -> None:
    pem, _ = signed()
    with serving(encrypted(*signed())) as uri:
        assert "not trusted: self-signed certificate" in TLS().complaint(uri)
        assert "is not trusted" in TLS(server_pem_path=pem).complaint(uri)


def test_a_certificate_of_another_name(signed: Callable) -> None:
    pem, key = signed()
    with serving(encrypted(pem, key)) as uri:
        assert "Hostname mismatch" in TLS(pem, server_name="other").complaint(uri)
        assert TLS(pem, server_name="127.0.0.1").complaint(uri) == ""


def test_a_server_that_wants_to_know_its_clients(signed: Callable) -> None:
    pem, key = signed()
    mine, my_key = signed()
    with serving(encrypted(pem, key, clients=mine)) as uri:
        for tls in (TLS(pem), TLS(pem, "", pem, key)):
            assert "broke the TLS handshake off" in tls.complaint(uri)
            assert "client_pem_path" in tls.complaint(uri)
        assert TLS(pem, "", mine, my_key).complaint(uri) == ""


def test_who_does_not_speak_tls(signed: Callable) -> None:
    with serving(lambda taken: taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as uri:
        assert TLS().complaint(uri) == "it does not speak TLS: write http://, or turn TLS on there"
        assert not speaks(uri)
    assert TLS().complaint(uri) == ""
    assert not speaks(uri)
