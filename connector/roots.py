"""Photos by the paths and URLs that somebody's collection holds, from the given folders and sites alone.

Whoever can write to the collection can write any path into it, so none is followed that leads elsewhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from connector.errors import OutsideRootsError, PhotoUnavailableError
from connector.web import Web

MOST_BYTES = 64 * 2**20
"""Largest photo that is read, unless said otherwise."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|(file|data):", re.IGNORECASE)
_AS_IT_IS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Roots:
    """Where photos may lie: folders, and sites of the web when they are named."""

    def __init__(
        self,
        folders: Iterable[str | os.PathLike[str]] = (),
        urls: Iterable[str] = (),
        *,
        most_bytes: int = MOST_BYTES,
        seconds: float = 20.0,
    ) -> None:
        """Name the roots.

        Args:
            folders: photos are read from below these.
            urls: beginnings of URLs that are fetched, such as `https://photos.example.org/landmarks/`;
                `https://` stands for every public server. Without any, nothing is fetched.
            most_bytes: a larger photo is refused.
            seconds: that fetching a photo may take in all.

        Raises:
            OutsideRootsError: a folder is not there, or a URL cannot be a root.
        """
        self._folders = [Path(folder).resolve() for folder in folders]
        for folder in self._folders:
            if not folder.is_dir():
                raise OutsideRootsError(f"{folder} is not a folder: give one that holds photos")
        self._most_bytes = most_bytes
        self._web = Web(urls, most_bytes=most_bytes, seconds=seconds)

    def read(self, place: str) -> bytes:
        """The bytes of a photo.

        Args:
            place: a path, below a root when it is relative; or an http(s) URL. A path is taken letter by
                letter: `%2e` in it is no dot.

        Raises:
            OutsideRootsError: it leads out of the roots, over `..`, a link or a redirection, or it is a URL
                of another kind.
            PhotoUnavailableError: there is no photo, it is too large, or its server does not send it.
        """
        return self._web.fetch(place) if _URL.match(place) else self._read(self.path(place), place)

    def path(self, place: str) -> Path:
        """The file to which a path leads, over links as well.

        Raises:
            OutsideRootsError: it leads out of the roots.
            PhotoUnavailableError: there is no file.
        """
        if not self._folders:
            raise OutsideRootsError(f"{place!r} is a path, and no folder was given to read photos from")
        if "\0" in place or ("\\" in place and ".." in PureWindowsPath(place).parts):
            raise self._outside(place)
        try:
            leads_to = [(folder / place).resolve() for folder in self._folders]
            inside = [
                (found, found.is_file())
                for found in leads_to
                if any(found.is_relative_to(root) for root in self._folders)
            ]
        except (OSError, RuntimeError):  # links in a circle, a name too long
            raise PhotoUnavailableError(f"{place[:200]!r} cannot be followed to a photo") from None
        if not inside:
            raise self._outside(place)
        for found, is_file in inside:
            if is_file:
                return found
        raise PhotoUnavailableError(f"there is no photo {place!r} in {self._names()}")

    def _read(self, found: Path, place: str) -> bytes:
        try:
            with open(os.open(found, _AS_IT_IS), "rb") as file:  # noqa: PTH123
                opened = os.fstat(file.fileno())
                # A link that was put into the way after `path` looked has led elsewhere.
                if self.path(place) != found or not os.path.samestat(opened, found.stat()):
                    raise self._outside(place)
                if not stat.S_ISREG(opened.st_mode):
                    raise PhotoUnavailableError(f"{place!r} is no photo")
                data = file.read(self._most_bytes + 1)
        except OSError as error:
            raise PhotoUnavailableError(f"cannot read {place!r}: {error.strerror}") from None
        if len(data) > self._most_bytes:
            raise PhotoUnavailableError(f"{place!r} has more than {self._most_bytes} bytes: it is not read")
        return data

    def _outside(self, place: str) -> OutsideRootsError:
        return OutsideRootsError(
            f"{place!r} leads out of {self._names()}: photos are read from there alone; name its folder, too"
        )

    def _names(self) -> str:
        return ", ".join(map(str, self._folders))
