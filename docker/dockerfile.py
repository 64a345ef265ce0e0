"""Reads a Dockerfile and its .dockerignore: as much of both as ours use, anything else is refused."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL",
    "USER", "WORKDIR",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One instruction: its line, its name, its `--flags` in order, and what follows them."""

    line: int
    name: str
    flags: Sequence[tuple[str, str]]
    value: str

    def flag(self, name: str) -> str:
        """The value of a flag that comes once at most; empty when it does not."""
        return dict(self.flags).get(name, "")

    @property
    def command(self) -> list[str]:
        """What runs: the list of the exec form, or the shell of the other."""
        if self.value.startswith("["):
            return json.loads(self.value)
        return ["/bin/sh", "-c", self.value]

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """`key=value …` of ENV, LABEL and ARG."""
        found = {}
        for word in shlex.split(self.value):
            key, _, value = word.partition("=")
            found[key] = expand(value, variables)
        return found


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @property
    def needs(self) -> set[str]:
        """What this stage starts from, copies from or mounts: names of stages and of images."""
        copied = {instruction.flag("from") for instruction in self.instructions}
        mounted = {
            mount(value).get("from", "")
            for instruction in self.instructions
            for flag, value in instruction.flags
            if flag == "mount"
        }
        return ({self.base} | copied | mounted) - {""}


def parse(text: str, arguments: Mapping[str, str] | None = None) -> tuple[dict[str, str], list[Stage]]:
    """The stages of a Dockerfile, in order.

    Args:
        text: the file.
        arguments: build arguments, which replace the defaults of those before the first FROM.

    Returns:
        The arguments before the first FROM, and the stages.

    Raises:
        ValueError: an instruction is none that is known here.
    """
    given = dict(arguments or {})
    variables: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            base, *named = instruction.value.split()
            name = named[1] if named else str(len(stages))
            stages.append(Stage(expand(base, variables), name))
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            defaults = instruction.pairs(variables)
            variables |= {key: given.get(key, value) for key, value in defaults.items()}
    return variables, stages


def _instructions(text: str) -> Iterator[Instruction]:
    logical, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        start = start if logical else number
        logical += line.strip()
        if logical.endswith("\\"):
            logical = logical[:-1]
            continue
        name, _, rest = logical.partition(" ")
        logical = ""
        if name not in KNOWN:
            raise ValueError(f"line {start}: {name} is not known here")
        flags = []
        while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest := rest.lstrip()):
            flags.append((found[1], found[2]))
            rest = rest[found.end() :]
        yield Instruction(start, name, flags, rest.strip())


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$NAME` and `${NAME}`; one that is not set is empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: variables.get(found[1] or found[2], ""), text)


def mount(value: str) -> dict[str, str]:
    """The parts of `--mount=type=…,target=…`."""
    return dict(part.partition("=")[::2] for part in value.split(","))


class Ignore:
    """A .dockerignore: what of a context a build does not see. The last pattern that fits a path decides."""

    def __init__(self, text: str) -> None:
        lines = (line.strip() for line in text.splitlines())
        self._rules = [
            (_regex(line.lstrip("!").strip("/")), line.startswith("!"))
            for line in lines
            if line and not line.startswith("#")
        ]

    def __call__(self, path: Path) -> bool:
        """Whether a path, relative to the context, is left out."""
        ignored = False
        for rule, wanted in self._rules:
            if any(rule.fullmatch(str(part)) for part in (path, *path.parents)):
                ignored = not wanted
        return ignored


def _regex(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.compile(escaped)
