from __future__ import annotations

import asyncio
import functools
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector import web
from connector.errors import OutsideRootsError, PhotoUnavailableError
from connector.roots import Roots

PHOTO = b"\xff\xd8photo"
OUTSIDE = (OutsideRootsError, PhotoUnavailableError)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photos/ and archive/ are roots; secret lies beside them, and links lead everywhere."""
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    (tmp_path / "archive").mkdir()
    (tmp_path / "photos-private").mkdir()
    for place in ("photos/a.jpg", "photos/deep/b.jpg", "photos/%2e%2e.jpg", "photos/back\\slash.jpg"):
        (tmp_path / place).write_bytes(PHOTO + place.encode())
    (tmp_path / "archive" / "old.jpg").write_bytes(PHOTO)
    for place in ("secret", "photos-private/secret"):
        (tmp_path / place).write_bytes(b"secret")
    (photos / "inner.jpg").symlink_to("deep/b.jpg")
    (photos / "archived.jpg").symlink_to(tmp_path / "archive" / "old.jpg")
    (photos / "leak.jpg").symlink_to(tmp_path / "secret")
    (photos / "up").symlink_to("..")
    (photos / "circle").symlink_to("circle")
    os.mkfifo(photos / "pipe.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("a.jpg", "photos/a.jpg"),
        ("./deep//b.jpg", "photos/deep/b.jpg"),
        ("deep/../a.jpg", "photos/a.jpg"),
        ("inner.jpg", "photos/deep/b.jpg"),
        ("%2e%2e.jpg", "photos/%2e%2e.jpg"),
        ("back\\slash.jpg", "photos/back\\slash.jpg"),
    ],
)
def test_photos_below_a_root(folder: Path, place: str, found: str) -> None:
    roots = Roots([folder / "photos"])
    assert roots.read(place) == PHOTO + found.encode()
    assert roots.read(str(folder / "photos" / place)) == PHOTO + found.encode()
    assert roots.path(place) == (folder / found).resolve()


def test_several_roots_are_looked_through(folder: Path) -> None:
    roots = Roots([folder / "photos", str(folder / "archive")])
    assert roots.read("old.jpg") == PHOTO
    assert roots.read("archived.jpg") == PHOTO
    assert roots.read("../archive/old.jpg") == PHOTO
    with pytest.raises(PhotoUnavailableError, match=r"no photo 'new\.jpg' in .*photos, .*archive"):
        roots.read("new.jpg")


@pytest.mark.parametrize(
    "place",
    [
        "../secret",
        "deep/../../secret",
        "up/secret",
        "up/photos/up/secret",
        "leak.jpg",
        "archived.jpg",
        "../photos-private/secret",
        "/etc/passwd",
        "//etc/passwd",
        "",
        "..",
        "../nowhere",
        "/nowhere/at/all",
        "a.jpg\0",
        "\0",
        "..\\secret",
        "deep\\..\\..\\secret",
        "C:\\..\\secret",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "FILE:secret",
        "file://localhost/etc/passwd",
        "ftp://example.org/a.jpg",
        "data:image/jpeg;base64,AA==",
        "gopher://example.org",
        "http://example.org/a.jpg",
        "https://example.org/a.jpg",
    ],
)
def test_places_outside_the_roots(folder: Path, place: str) -> None:
    roots = Roots([folder / "photos"])
    with pytest.raises(OutsideRootsError if place else PhotoUnavailableError):
        roots.read(place)
    if not place.startswith(("file", "FILE", "..\\", "/", "\0", "C:")):
        with pytest.raises(OUTSIDE):
            roots.read(f"{folder}/photos/{place}")


@pytest.mark.parametrize(
    "place",
    [
        "%2e%2e/secret",
        "..%2fsecret",
        "%252e%252e/secret",
        "．．/secret",
        "circle",
        "pipe.jpg",
        "deep",
        "x" * 5000,
    ],
)
def test_what_is_not_there_in_these_letters(folder: Path, place: str) -> None:
    with pytest.raises(PhotoUnavailableError):
        Roots([folder / "photos"]).read(place)


pieces = st.sampled_from(
    [
        "..",
        ".",
        "up",
        "deep",
        "leak.jpg",
        "secret",
        "photos",
        "photos-private",
        "",
        "\\",
        "..\\",
        "%2e%2e",
        "\0",
        "~",
        "a.jpg",
    ]
)


@given(st.lists(pieces, max_size=8), st.booleans())
def test_no_path_reaches_the_secret(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], absolute: bool
) -> None:
    base = tmp_path_factory.getbasetemp() / "reach"
    if not base.exists():
        (base / "photos" / "deep").mkdir(parents=True)
        (base / "photos-private").mkdir()
        for place in ("secret", "photos-private/secret"):
            (base / place).write_bytes(b"secret")
        (base / "photos" / "a.jpg").write_bytes(PHOTO)
        (base / "photos" / "leak.jpg").symlink_to(base / "secret")
        (base / "photos" / "up").symlink_to("..")
    place = "/".join(parts)
    try:
        data = Roots([base / "photos"]).read(f"{base}/photos/{place}" if absolute else place)
    except OUTSIDE:
        return
    assert data == PHOTO


def test_a_link_that_is_put_into_the_way_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = Roots([folder / "photos"])
    opened = os.open

    def swap(path: Path, flags: int) -> int:
        (folder / "photos" / "deep").rename(folder / "photos" / "away")
        (folder / "photos" / "deep").symlink_to(folder / "swapped")
        return opened(path, flags)

    (folder / "swapped").mkdir()
    (folder / "swapped" / "b.jpg").write_bytes(b"secret")
    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(OutsideRootsError):
        roots.read("deep/b.jpg")


def test_photos_that_are_too_large(folder: Path) -> None:
    (folder / "photos" / "large.jpg").write_bytes(bytes(1001))
    (folder / "photos" / "fits.jpg").write_bytes(bytes(1000))
    roots = Roots([folder / "photos"], most_bytes=1000)
    assert len(roots.read("fits.jpg")) == 1000
    with pytest.raises(PhotoUnavailableError, match="more than 1000 bytes"):
        roots.read("large.jpg")


def test_without_roots_nothing_is_read(folder: Path) -> None:
    with pytest.raises(OutsideRootsError, match="no folder was given"):
        Roots().read("a.jpg")
    with pytest.raises(OutsideRootsError, match="none may be fetched"):
        Roots([folder]).read("http://user:hunter2@example.org/a.jpg")
    with pytest.raises(OutsideRootsError, match="is not a folder"):
        Roots([folder / "secret"])


# URLs


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((a, True) for a in ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")),
        *((a, False) for a in ("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1")),
        *((a, False) for a in ("169.254.169.254", "100.64.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1")),
        *((a, False) for a in ("255.255.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "192.88.99.1")),
        *(
            (a, False)
            for a in ("168.63.129.16", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00::1")
        ),
        *(
            (a, False)
            for a in ("ff02::1", "ff0e::1", "fec0::1", "2001:db8::1", "3fff::1", "::ffff:127.0.0.1")
        ),
        *(
            (a, False)
            for a in ("::ffff:10.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::")
        ),
    ],
)
def test_addresses_of_the_public_internet(address: str, public: bool) -> None:
    assert web.is_public(address) is public


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
        "0", "0x7f.1", "017700000001", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]",
        "10.0.0.1", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "224.0.0.1", "127.0.0.1:80",
    ],
)  # fmt: skip
def test_private_addresses_in_any_spelling(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.httpx.AsyncClient, "send", _never)
    for scheme in ("http", "https"):
        with pytest.raises(OutsideRootsError, match=r"is no public address|cannot be read as a URL"):
            Roots(urls=["https://", "http://"]).read(f"{scheme}://{host}/latest/meta-data")


async def _never(*_: object, **__: object) -> None:
    raise AssertionError("something was asked")


def test_one_private_address_among_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.httpx.AsyncClient, "send", _never)
    monkeypatch.setattr(web, "addresses", lambda host, port: ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(OutsideRootsError, match=r"10\.0\.0\.1 is no public address"):
        Roots(urls=["https://"]).read("https://photos.example.org/a.jpg")


@pytest.mark.parametrize(
    "url",
    [
        "https://photos.example.org/private/a.jpg",
        "https://photos.example.org/landmarks",
        "https://photos.example.org/landmarks-private/a.jpg",
        "https://photos.example.org/landmarks/../private/a.jpg",
        "https://photos.example.org/landmarks/%2e%2e/private/a.jpg",
        "https://photos.example.org/landmarks/%252e%252e/private/a.jpg",
        "https://photos.example.org/landmarks/..%2fprivate/a.jpg",
        "https://photos.example.org/landmarks/..%5cprivate/a.jpg",
        "https://photos.example.org:8443/landmarks/a.jpg",
        "http://photos.example.org/landmarks/a.jpg",
        "https://example.org/landmarks/a.jpg",
        "https://photos.example.org.evil.org/landmarks/a.jpg",
        "https://photos.example.org@evil.org/landmarks/a.jpg",
        "https://evil.org#@photos.example.org/landmarks/a.jpg",
        "https://evil.org\\@photos.example.org/landmarks/a.jpg",
        "https://user:hunter2@photos.example.org/landmarks/a.jpg",
        "https:///landmarks/a.jpg",
        "https://photos.example.org:port/landmarks/a.jpg",
        "https://[::1/landmarks/a.jpg",
        "https://photos.example.org/landmarks/a\n.jpg",
        "ftp://photos.example.org/landmarks/a.jpg",
    ],
)
def test_urls_outside_the_roots(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "addresses", _no_resolver)
    with pytest.raises(OutsideRootsError) as caught:
        Roots(urls=["https://photos.example.org/landmarks/"]).read(url)
    assert "hunter2" not in str(caught.value)


def _no_resolver(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize(
    "root",
    [
        "photos.example.org",
        "ftp://a/",
        "file:///",
        "https://a/x",
        "https://u:hunter2@a/",
        "https://a/?q",
        "https:///x/",
        "",
        "https://a/%2e%2e/",
    ],
)
def test_what_is_no_root(root: str) -> None:
    with pytest.raises(OutsideRootsError, match=r"is no beginning|must end in|has no host") as caught:
        Roots(urls=[root])
    assert "hunter2" not in str(caught.value)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))  # type: ignore[attr-defined]
        status, headers, body = self.server.answers[self.path]  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Connection", "close")
        self.end_headers()
        try:
            for block in body:
                self.wfile.write(block)
        except OSError:
            pass  # the client has gone
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """A web server on this machine under the name photos.example.org, whose address passes for public."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, tuple] = {}
        server.asked, server.answers = self.asked, self.answers  # type: ignore[attr-defined]
        self.port = server.server_address[1]
        self.root = f"http://photos.example.org:{self.port}/"

    def answer(self, path: str, body: object = (PHOTO,), status: int = 200, **headers: str) -> str:
        self.answers[path] = (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
            body,
        )
        return f"{self.root}{path[1:]}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    names = {"photos.example.org": "127.0.0.1", "intranet.example.org": "10.0.0.1"}
    true = web.is_public
    monkeypatch.setattr(web, "addresses", lambda host, port: [names[host]])
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1" or true(address))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield Site(server)
        server.shutdown()


def test_a_photo_of_a_site(site: Site) -> None:
    url = site.answer("/landmarks/Köln%20a%2Fb.jpg?size=1".replace("ö", "%C3%B6"))
    roots = Roots(urls=[f"{site.root}landmarks/"])
    assert roots.read(url) == PHOTO
    assert site.asked == [(f"photos.example.org:{site.port}", "/landmarks/K%C3%B6ln%20a%2Fb.jpg?size=1")]


def test_in_a_running_event_loop(site: Site) -> None:
    url = site.answer("/a.jpg")

    async def notebook() -> bytes:
        return Roots(urls=["http://"]).read(url)

    assert asyncio.run(notebook()) == PHOTO


def test_a_name_is_resolved_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])  # the second answer would be the rebound one
    resolved: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        resolved.append(host)
        return next(answers)

    monkeypatch.setattr(web, "addresses", resolve)
    assert Roots(urls=["http://"]).read(site.answer("/a.jpg")) == PHOTO
    assert resolved == ["photos.example.org"]
    with pytest.raises(OutsideRootsError, match=r"10\.0\.0\.1 is no public address"):
        Roots(urls=["http://"]).read(site.answer("/a.jpg"))
    assert len(site.asked) == 1


def test_redirections_are_followed_and_looked_at_again(site: Site) -> None:
    photo = site.answer("/landmarks/new.jpg")
    roots = Roots(urls=[f"{site.root}landmarks/"])
    for status in (301, 302, 303, 307, 308):
        site.answer("/landmarks/b", status=status, Location=photo)
        assert roots.read(site.answer("/landmarks/a", status=status, Location="b")) == PHOTO
    asked = len(site.asked)
    for elsewhere in (
        "http://intranet.example.org/landmarks/a.jpg",
        "/private/a.jpg",
        "../private/a.jpg",
        "file:///etc/passwd",
        "http://127.0.0.1/",
        "//169.254.169.254/latest",
        "https://[",
    ):
        with pytest.raises(OutsideRootsError):
            roots.read(site.answer("/landmarks/a", status=302, Location=elsewhere))
    assert len(site.asked) == asked + 7
    with pytest.raises(OutsideRootsError, match=r"10\.0\.0\.1 is no public address"):
        Roots(urls=["http://"]).read(site.answer("/a", status=302, Location="http://intranet.example.org/"))


def test_redirections_without_end(site: Site) -> None:
    with pytest.raises(PhotoUnavailableError, match="more than 5 redirections"):
        Roots(urls=["http://"]).read(site.answer("/a", status=302, Location="/a"))
    assert len(site.asked) == 6


def test_what_is_too_large_is_not_read_to_its_end(site: Site) -> None:
    sent = [0]

    def endless() -> Iterator[bytes]:
        while True:
            sent[0] += 1 << 16
            yield bytes(1 << 16)

    roots = Roots(urls=["http://"], most_bytes=100_000)
    with pytest.raises(PhotoUnavailableError, match="more than 100000 bytes"):
        roots.read(site.answer("/a", endless()))
    assert sent[0] < 50_000_000
    assert len(roots.read(site.answer("/b", [bytes(100_000)]))) == 100_000


def drip() -> Iterator[bytes]:
    for _ in range(100):
        time.sleep(0.05)
        yield b"x"


def hang() -> Iterator[bytes]:
    time.sleep(5)
    yield b"x"


@pytest.mark.parametrize("body", [drip, hang])
def test_what_takes_too_long(site: Site, body: Callable) -> None:
    began = time.monotonic()
    with pytest.raises(PhotoUnavailableError, match=r"did not arrive within 0\.5 s"):
        Roots(urls=["http://"], seconds=0.5).read(site.answer("/a", body()))
    while any(thread.name == "photo" for thread in threading.enumerate()):
        time.sleep(0.01)  # nothing goes on reading behind the scenes
    assert time.monotonic() - began < 3


def test_a_resolver_that_hangs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "addresses", lambda host, port: time.sleep(4))
    began = time.monotonic()
    with pytest.raises(PhotoUnavailableError, match="did not arrive"):
        Roots(urls=["http://"], seconds=0.3).read(site.root)
    assert time.monotonic() - began < 3


def test_what_is_not_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = Roots(urls=["http://"])
    with pytest.raises(PhotoUnavailableError, match="is not sent: status 404"):
        roots.read(site.answer("/a", status=404))
    with pytest.raises(PhotoUnavailableError, match="is sent packed"):
        roots.read(site.answer("/a", Content_Encoding="gzip"))
    with pytest.raises(PhotoUnavailableError, match="broke off"):
        roots.read(site.answer("/a", Content_Length="1000"))

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror

    monkeypatch.setattr(web, "addresses", unknown)
    with pytest.raises(PhotoUnavailableError, match=r"nobody knows 'photos\.example\.org'"):
        roots.read(site.root)
    monkeypatch.setattr(web, "addresses", lambda host, port: ["127.0.0.1"])
    with pytest.raises(PhotoUnavailableError, match="cannot be fetched"):
        roots.read("http://photos.example.org:9/")


def test_the_next_address_when_one_is_deaf(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    true = web.is_public
    monkeypatch.setattr(web, "addresses", lambda host, port: ["127.0.0.2", "127.0.0.1"])
    monkeypatch.setattr(web, "is_public", lambda address: address.startswith("127.") or true(address))
    assert Roots(urls=["http://"]).read(site.answer("/a")) == PHOTO


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no certificates: it needs the command openssl")
def test_the_certificate_must_be_that_of_the_name(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(name: str) -> bytes:
        key, pem = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        subject = ("-subj", "/CN=photos", "-addext", f"subjectAltName=DNS:{name}")
        made = ("-keyout", key, "-out", pem)
        request = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *made)
        subprocess.run(request, check=True, capture_output=True)
        trusting = ssl.create_default_context(cafile=pem)
        monkeypatch.setattr(web.httpx, "AsyncClient", functools.partial(client, verify=trusting))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        encrypted = Site(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            return Roots(urls=["https://"]).read(encrypted.answer("/a").replace("http:", "https:"))
        finally:
            server.shutdown()
            server.server_close()

    client = web.httpx.AsyncClient
    assert answer("photos.example.org") == PHOTO
    with pytest.raises(PhotoUnavailableError, match=r"certificate.*photos\.example\.org"):
        answer("other.example.org")
