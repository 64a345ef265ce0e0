"""Photos from the web, without being led into the network at home: from public addresses alone.

A name is resolved once, all its addresses are looked at, and one of them is connected to, so that the name
cannot mean another one a moment later; every redirection goes the same way.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote

import httpx

from connector.errors import OutsideRootsError, PhotoUnavailableError

_REDIRECTIONS = 5
_TRANSLATED = IPv6Network("64:ff9b::/96")
_REFUSED: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("168.63.129.16/32"),  # in one cloud, a service of the machine below
    *map(IPv6Network, ("::/96", "2001::/32", "2002::/16", "3fff::/20", "fec0::/10")),
)
"""What Python, in some of its versions, takes for public beyond what is: tunnels, examples, services."""


class Web:
    """The sites that photos may be fetched from."""

    def __init__(self, urls: Iterable[str], *, most_bytes: int, seconds: float) -> None:
        """Name the beginnings of allowed URLs; see `Roots`.

        Raises:
            OutsideRootsError: one is no beginning of an http(s) URL.
        """
        self._roots = [_root(url) for url in urls]
        self._most_bytes, self._seconds = most_bytes, seconds

    def fetch(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            OutsideRootsError: it, or a redirection, is outside the roots, or leads to an address that is not
                public.
            PhotoUnavailableError: no answer in time, or none that is a photo of acceptable size.
        """
        self._checked(url)
        fetched: Future[bytes] = Future()

        def work() -> None:
            try:
                fetched.set_result(asyncio.run(self._follow(url)))
            except BaseException as error:
                fetched.set_exception(error)

        # In a thread of its own, this works inside a running event loop, and a resolver that hangs is left.
        threading.Thread(target=work, name="photo", daemon=True).start()
        try:
            return fetched.result(self._seconds)
        except TimeoutError:
            raise PhotoUnavailableError(f"{url!r} did not arrive within {self._seconds:g} s") from None

    async def _follow(self, url: str) -> bytes:
        # Without the proxies of the environment, which would resolve names themselves.
        async with (
            asyncio.timeout(self._seconds),
            httpx.AsyncClient(trust_env=False, timeout=self._seconds) as client,
        ):
            for _ in range(_REDIRECTIONS + 1):
                answer = await self._ask(client, self._checked(url))
                if isinstance(answer, bytes):
                    return answer
                url = answer
        raise PhotoUnavailableError(f"{url!r} was reached over more than {_REDIRECTIONS} redirections")

    async def _ask(self, client: httpx.AsyncClient, url: httpx.URL) -> bytes | str:
        """The photo, or where it has moved to."""
        failure: Exception | None = None
        for address in await _public_addresses(url):
            request = client.build_request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode(), "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": url.host},
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError as error:
                failure = error
                continue
            except httpx.HTTPError as error:
                raise PhotoUnavailableError(f"{str(url)!r} cannot be fetched: {_reason(error)}") from None
            try:
                return await self._take(response, url)
            except httpx.HTTPError as error:
                raise PhotoUnavailableError(f"{str(url)!r} broke off: {_reason(error)}") from None
            finally:
                await response.aclose()
        raise PhotoUnavailableError(f"{str(url)!r} cannot be fetched: {_reason(failure)}")

    async def _take(self, response: httpx.Response, url: httpx.URL) -> bytes | str:
        if response.has_redirect_location:
            try:
                return str(url.join(response.headers["location"]))
            except httpx.InvalidURL:
                raise OutsideRootsError(f"{str(url)!r} is redirected to what is no URL") from None
        if response.status_code != httpx.codes.OK:
            raise PhotoUnavailableError(f"{str(url)!r} is not sent: status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise PhotoUnavailableError(f"{str(url)!r} is sent packed, which was not asked for")
        data = bytearray()
        async for block in response.aiter_raw():
            data += block
            if len(data) > self._most_bytes:
                raise PhotoUnavailableError(f"{str(url)!r} has more than {self._most_bytes} bytes")
        return bytes(data)

    def _checked(self, text: str) -> httpx.URL:
        if not self._roots:
            raise OutsideRootsError(
                f"{_shown(text)!r} is a URL, and none may be fetched: name the site that holds the photos"
            )
        try:
            url = httpx.URL(text)
            _ = url.host
        except (httpx.InvalidURL, ValueError):
            raise OutsideRootsError(f"{_shown(text)!r} cannot be read as a URL") from None
        if not url.host or url.userinfo or _climbs(url):
            raise OutsideRootsError(
                f"{_shown(text)!r} is not fetched: a URL has a host, no user, and no '..'"
            )
        if not any(_leads_below(root, url) for root in self._roots):
            raise OutsideRootsError(f"{_shown(text)!r} is outside the sites that photos may be fetched from")
        return url


def is_public(address: str) -> bool:
    """Whether an IP address belongs to a machine of the public internet."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _TRANSLATED:
            return is_public(str(IPv4Address(int(ip) & 0xFFFFFFFF)))
    if any(ip in network for network in _REFUSED):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def addresses(host: str, port: int) -> list[str]:
    """The IP addresses of a name, or of a number in any spelling, in the system's order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _public_addresses(url: httpx.URL) -> list[str]:
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().run_in_executor(None, addresses, url.host, port)
    except (OSError, UnicodeError):
        raise PhotoUnavailableError(f"{str(url)!r} cannot be fetched: nobody knows {url.host!r}") from None
    for address in found:
        if not is_public(address):
            raise OutsideRootsError(f"{str(url)!r} is not fetched: {address} is no public address")
    return found


def _root(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text if "://" in text else "")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or url.userinfo or url.query or url.fragment or _climbs(url):
        raise OutsideRootsError(
            f"{_shown(text)!r} is no beginning of URLs: write it like https://photos.example.org/landmarks/"
        )
    if not url.host and url.path != "/":
        raise OutsideRootsError(f"{text!r} has no host: write https:// for every public server, or name one")
    if not url.path.endswith("/"):
        raise OutsideRootsError(f"{text!r} must end in '/': otherwise it would begin longer names as well")
    return url


def _leads_below(root: httpx.URL, url: httpx.URL) -> bool:
    same = not root.host or (root.host, root.port) == (url.host, url.port)
    return same and root.scheme == url.scheme and url.raw_path.startswith(root.raw_path)


def _climbs(url: httpx.URL) -> bool:
    """Whether the path has a `..`, in whatever spelling a server may undo."""
    path = url.raw_path.decode("ascii").partition("?")[0]
    while (plainer := unquote(path)) != path:
        path = plainer
    return ".." in re.split(r"[/\\]", path)


def _shown(text: str) -> str:
    """A URL without user and password."""
    return re.sub(r"//[^/?#]*@", "//", text)


def _reason(error: Exception | None) -> str:
    return str(error) or type(error).__name__
