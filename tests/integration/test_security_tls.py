"""TLS against a real server: what is trusted connects, what is not says why, and no secret is shown."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.client import Client
from connector.collection import Collection
from connector.errors import AccessDeniedError, UnreachableError, UntrustedError
from connector.tls import TLS

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no certificates: it needs the command openssl"
)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """Signs certificates, in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.pem, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = ("-subj", f"/CN={name}", "-days", 2)
        made = ("-keyout", self._key, "-out", self.pem)
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *made)

    def sign(self, name: str) -> tuple[str, str]:
        """Certificate and key of a name, for this machine."""
        pem, key, request, names = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr", "names"))
        names.write_text("subjectAltName=IP:127.0.0.1\n")
        made = ("-keyout", key, "-out", request)
        openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", *made)
        signing = ("-CA", self.pem, "-CAkey", self._key, "-CAcreateserial", "-extfile", names, "-days", 2)
        openssl("x509", "-req", "-in", request, "-out", pem, *signing)
        return str(pem), str(key)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


def start(
    standalone_class: Any, request: pytest.FixtureRequest, folder: Path, tls: TLS, **settings: Any
) -> Any:
    if reason := standalone_class.unavailable():
        pytest.skip(reason)
    binaries = request.config.cache.mkdir("milvus-2.3.5")
    server = standalone_class(folder, binaries, **settings)
    server.address = server.uri.replace("http:", "https:")
    deadline = time.monotonic() + 120
    while True:
        try:
            Client(server.address, token="root:Milvus", tls=tls, timeout=5).close()
        except UnreachableError as error:
            if time.monotonic() > deadline:
                server.kill()
                log = (folder / "server.log").read_text(errors="replace")[-3000:]
                pytest.fail(f"the Milvus server did not start with TLS: {error}\n{log}")
            time.sleep(0.3)
        else:
            return server


@pytest.fixture(scope="module")
def one_way(
    standalone_class, request: pytest.FixtureRequest, tmp_path_factory, authority: Authority
) -> Iterator[Any]:
    """A server that proves who it is."""
    pem, key = authority.sign("server")
    settings = {"tls_mode": 1, "server_pem_path": pem, "server_key_path": key}
    tls = TLS(ca_pem_path=str(authority.pem))
    server = start(standalone_class, request, tmp_path_factory.mktemp("tls"), tls, **settings)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def mutual(
    standalone_class, request: pytest.FixtureRequest, tmp_path_factory, authority: Authority
) -> Iterator[Any]:
    """A server that proves who it is and asks its clients to."""
    pem, key = authority.sign("server-of-two")
    settings = {"server_pem_path": pem, "server_key_path": key, "ca_pem_path": str(authority.pem)}
    tls = TLS("", str(authority.pem), *authority.sign("tests"))
    server = start(standalone_class, request, tmp_path_factory.mktemp("mtls"), tls, tls_mode=2, **settings)
    yield server
    server.kill()


def test_a_server_that_its_authority_vouches_for(
    one_way, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILVUS_CA_PEM", str(authority.pem))
    arguments = {"token": "root:Milvus", "dimension": 16, "extractor": "xfeat@1"}
    with Collection.create(one_way.address, "encrypted", **arguments) as collection:
        assert len(collection) == 0
        assert collection.info()["uri"] == one_way.address
    with Collection.open(one_way.address, "encrypted", token="root:Milvus") as collection:
        assert len(collection) == 0


def test_a_wrong_token_over_tls(one_way, authority: Authority) -> None:
    with pytest.raises(AccessDeniedError, match="check token, user and database") as caught:
        Client(one_way.address, token="root:hunter2", tls=TLS(ca_pem_path=str(authority.pem)))
    assert "hunter2" not in str(caught.value)


def test_a_server_that_nobody_vouches_for(one_way, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    for tls in (TLS(), TLS(ca_pem_path=str(stranger.pem))):
        with pytest.raises(UntrustedError, match=r"its certificate is not trusted: .*check ca_pem_path"):
            Client(one_way.address, token="root:Milvus", tls=tls, timeout=3)


def test_a_server_of_another_name(one_way, authority: Authority) -> None:
    tls = TLS(ca_pem_path=str(authority.pem), server_name="milvus.example.org")
    with pytest.raises(UntrustedError, match=r"Hostname mismatch, .*milvus\.example\.org.*server_name"):
        Client(one_way.address, token="root:Milvus", tls=tls, timeout=3)


def test_an_address_without_tls(one_way) -> None:
    with pytest.raises(UntrustedError, match="speaks TLS: write https://"):
        Client(one_way.uri, token="root:Milvus", timeout=3)


def test_both_sides_prove_who_they_are(mutual, authority: Authority, tmp_path: Path) -> None:
    ca = str(authority.pem)
    client = Client(mutual.address, token="root:Milvus", tls=TLS("", ca, *authority.sign("photos")))
    assert client.call("list_collections") == []
    client.close()
    stranger = Authority(tmp_path, "stranger").sign("client")
    for tls in (TLS(ca_pem_path=ca), TLS("", ca, *stranger)):
        with pytest.raises(UntrustedError, match=r"broke the TLS handshake off .*client_pem_path"):
            Client(mutual.address, token="root:Milvus", tls=tls, timeout=3)
