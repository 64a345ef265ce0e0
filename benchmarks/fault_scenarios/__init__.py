"""Faults of Milvus, of its clients and of the disk, provoked on purpose; what each cost, as a record."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Fault:
    """What one kind of fault cost.

    Attributes:
        fault: what was done.
        backend: `lite` or `server`.
        tried: how often.
        rows_lost: rows that were acknowledged, or that an undisturbed run writes, and that are not there.
        rows_duplicated: rows that are there twice, or that an undisturbed run does not write.
        told: the messages that the user got.
    """

    fault: str
    backend: str
    tried: int
    rows_lost: int = 0
    rows_duplicated: int = 0
    told: Sequence[str] = ()


@dataclass(frozen=True)
class Place:
    """Where one run works: a Milvus, a collection, and a folder for its files."""

    uri: str
    token: str
    name: str
    folder: str
    tenant: str = ""


@dataclass(frozen=True)
class Backend:
    """Milvus Lite in a folder, or a server.

    Attributes:
        folder: for Milvus Lite's and other files.
        uri: of the server; empty for Milvus Lite.
        token: of the server.
    """

    folder: Path
    uri: str = ""
    token: str = ""

    @property
    def lite(self) -> bool:
        return not self.uri

    def __str__(self) -> str:
        return "lite" if self.lite else "server"

    def place(self, name: str, tenant: str = "") -> Place:
        """A new one."""
        name = f"faults_{name}"
        folder = self.folder / name
        return Place(self.uri or f"{folder}.db", self.token, name, str(folder), tenant)


class SurpriseError(Exception):
    """Something failed that was to succeed, or the reverse, or with another message."""


class Worker:
    """The process of `workers`, which runs one job at a time in a fork of itself."""

    def __init__(self, cache: Path) -> None:
        """Start it; what it would keep in the user's cache, it keeps in `cache`."""
        self._running = False
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("workers.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def start(
        self, job: str, place: Place, *, death: tuple[int, float] | None = None, **arguments: Any
    ) -> None:
        """Begin a job; `death` is the step, and the seconds after it, at which it is killed."""
        list(self.answers())  # of a job that went on after a surprise
        self._running = True
        arguments["place"] = asdict(place)
        self._process.stdin.write(json.dumps({"job": job, "arguments": arguments, "death": death}) + "\n")

    def proceed(self) -> None:
        """Let a job go on that waits for a byte."""
        self._process.stdin.write("\n")

    def answers(self) -> Iterator[dict[str, Any]]:
        """What the job says until it ends."""
        while self._running:
            answer = json.loads(self._process.stdout.readline())
            self._running = "killed" not in answer
            yield answer

    def run(self, job: str, place: Place, **arguments: Any) -> Outcome:
        """A job from beginning to end."""
        self.start(job, place, **arguments)
        return self.outcome()

    def outcome(self) -> Outcome:
        """How the job that was started ends."""
        acknowledged: list[str] = []
        told: dict[str, Any] = {}
        for answer in self.answers():
            acknowledged += answer.pop("acknowledged", [])
            told |= answer
        return Outcome(acknowledged, **told)

    def complete(self, job: str, place: Place, **arguments: Any) -> Outcome:
        """A job that nothing disturbs.

        Raises:
            SurpriseError: it failed.
        """
        outcome = self.run(job, place, **arguments)
        if outcome.failed or outcome.killed:
            raise SurpriseError(f"{job} at {place.uri} {place.name}: {outcome}")
        return outcome

    def content(self, place: Place) -> Content:
        """All that a place holds."""
        return Content(**self.complete("content", place).done)


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    acknowledged: list[str]
    done: Any = None
    steps: int | None = None
    failed: str | None = None
    killed: int = 0


@dataclass(frozen=True)
class Content:
    """Digests of all that a place holds, by name, and how many rows are there twice."""

    found: Mapping[str, str]
    twice: int

    def lost(self, expected: Content) -> int:
        return sum(self.found.get(name) != digest for name, digest in expected.found.items())

    def duplicated(self, expected: Content) -> int:
        return self.twice + len(self.found.keys() - expected.found.keys())

    def lacks(self, acknowledged: Sequence[str], expected: Content) -> int:
        """How many of the rows that Milvus acknowledged are not there as they are to be."""
        return sum(self.found.get(name) != expected.found[name] for name in acknowledged)


@contextmanager
def refusal(kind: type[Exception], message: str) -> Iterator[list[str]]:
    """Whether what is done fails with this kind of error and a message that matches; the list gets it.

    Raises:
        SurpriseError: it does not.
    """
    told: list[str] = []
    try:
        yield told
    except kind as error:
        told.append(str(error))
    except Exception as error:
        raise SurpriseError(f"{kind.__name__} was expected, not {error!r}") from error
    if not told:
        raise SurpriseError(f"{kind.__name__} was expected, and nothing failed")
    if not re.search(message, told[0]):
        raise SurpriseError(f"the message was expected to say {message!r}: {told[0]}")
