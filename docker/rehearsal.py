"""Carries out a Dockerfile without an engine: its steps in folders of their own, its image as a process.

A stage is an overlay over those before it and over a minimal Debian system (debootstrap), which stands for
the `python:…-slim-…` image of the same release and Python; its commands run there by chroot. Nothing of this
machine is there but name resolution, certificates and pip's configuration. It needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import posixpath
import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockerfile import Ignore, Instruction, Stage, expand, mount

PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BuildError(Exception):
    """A step of the Dockerfile failed; the message says which."""


@dataclass(frozen=True)
class Image:
    """What a stage came to: its layers, the uppermost first, and how it is run."""

    layers: Sequence[Path]
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"})
    workdir: str = "/"
    user: str = ""
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    health: Sequence[str] = ()


def base(image: str, work: Path) -> Image:
    """The stand-in for a `python:…-slim-…` image; made once and kept in the work folder.

    Raises:
        BuildError: its Debian release has another Python.
    """
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-([a-z]+)", image)
    if not found:
        raise BuildError(f"{image}: the stand-in is for python:X.Y.Z-slim-RELEASE")
    version, release = found.groups()
    root = work / release
    if not root.exists():
        part = work / f"{release}.part"
        shutil.rmtree(part, ignore_errors=True)
        _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(part)])
        part.rename(root)
    if not (root / f"usr/bin/python{version}").exists():
        raise BuildError(f"{image}: Debian {release} has no Python {version} to stand in for it")
    for name, target in (("python", f"python{version}"), ("pip", "pip3")):
        link = root / "usr/local/bin" / name
        if not link.is_symlink():
            link.symlink_to(f"/usr/bin/{target}")
    (root / f"usr/lib/python{version}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
    return Image([root])


class Build:
    """The stages that a target needs, carried out one after the other.

    A stage that was carried out before, from the same files by the same steps, is taken as it was.
    """

    def __init__(self, context: Path, ignore: Ignore, work: Path, arguments: Mapping[str, str]) -> None:
        self.context, self.ignore, self.work, self.arguments = context, ignore, work, arguments
        self.images: dict[str, Image] = {}
        self._digests: dict[str, str] = {}

    def target(self, stages: Sequence[Stage], name: str) -> Image:
        """Carry out what a target needs, in the order of the file."""
        by_name = {stage.name: stage for stage in stages}
        wanted, open_ = set(), {name}
        while open_:
            wanted |= open_
            open_ = {n for stage in open_ for n in by_name[stage].needs if n in by_name} - wanted
        for stage in stages:
            if stage.name in wanted:
                self._stage(stage)
        return self.images[name]

    def _stage(self, stage: Stage) -> None:
        image = self.images.get(stage.base) or base(stage.base, self.work)
        place = self.work / "stages" / stage.name
        layer, done = place / "layer", place / "digest"
        digest = self._digests[stage.name] = self._digest(stage)
        kept = done.exists() and done.read_text() == digest
        if kept:
            print(f"{stage.name}: as before", flush=True)
        else:
            shutil.rmtree(place, ignore_errors=True)
            for folder in (layer, place / "work", place / "root"):
                folder.mkdir(parents=True)
            _overlay(image.layers, place / "root", layer, place / "work")
            _bind_system(place / "root")
        scope: dict[str, str] = {}
        for step in stage.instructions:
            image = self._configured(step, image, scope)
            if not kept:
                self._carry_out(stage, step, image, scope, place / "root")
        if not kept:
            _run(["umount", "--recursive", str(place / "root")])
            done.write_text(digest)
        self.images[stage.name] = replace(image, layers=[layer, *image.layers])

    def _digest(self, stage: Stage) -> str:
        """Of all that a stage is made of: its steps, the files that it copies, the stages it takes from."""
        steps = [(step.name, step.flags, step.value) for step in stage.instructions]
        digest = hashlib.sha256(repr((steps, sorted(self.arguments.items()))).encode())
        for needed in sorted(stage.needs):
            digest.update(self._digests.get(needed, needed).encode())
        for step in stage.instructions:
            if step.name == "COPY" and not step.flag("from"):
                for source in step.value.split()[:-1]:
                    for file in self._files(self.context / source):
                        digest.update(str(file).encode() + file.read_bytes())
        return digest.hexdigest()

    def _files(self, source: Path) -> list[Path]:
        """What of a path of the context a build sees."""
        found = [source] if source.is_file() else sorted(source.rglob("*"))
        return [file for file in found if file.is_file() and not self.ignore(file.relative_to(self.context))]

    def _configured(self, step: Instruction, image: Image, scope: dict[str, str]) -> Image:
        """How an image is run after a step; arguments of the stage are noted in `scope`."""
        variables = {**image.environment, **scope}
        match step.name:
            case "ARG":
                found = step.pairs(variables)
                scope |= {key: self.arguments.get(key, value) for key, value in found.items()}
            case "ENV":
                return replace(image, environment={**image.environment, **step.pairs(variables)})
            case "WORKDIR":
                return replace(image, workdir=_join(image.workdir, expand(step.value, variables)))
            case "USER":
                return replace(image, user=step.value)
            case "ENTRYPOINT":
                return replace(image, entrypoint=step.command, command=())
            case "CMD":
                return replace(image, command=step.command)
            case "HEALTHCHECK":
                test = replace(step, value=step.value.removeprefix("CMD").strip())
                return replace(image, health=test.command)
        return image

    def _carry_out(
        self, stage: Stage, step: Instruction, image: Image, scope: Mapping[str, str], root: Path
    ) -> None:
        """What a step does to the files."""
        if step.name not in ("WORKDIR", "COPY", "RUN"):
            return
        start = time.monotonic()
        try:
            if step.name == "WORKDIR":
                (root / image.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                self._copy(step, image, root)
            else:
                self._mounts(step, root)
                shell = replace(image, environment={**image.environment, **scope})
                _run(inside(root, shell, step.command))
                self._unmount(step, root)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BuildError(
                f"stage {stage.name}, line {step.line}: {step.name} {step.value}\n{error}"
            ) from None
        print(f"{time.monotonic() - start:7.1f} s  {stage.name}: {step.name} {step.value[:90]}", flush=True)

    def _copy(self, step: Instruction, image: Image, root: Path) -> None:
        *sources, target = step.value.split()
        place = root / _join(image.workdir, target).lstrip("/")
        origin = step.flag("from")
        if origin:
            with _mounted(self.images[origin], self.work / "from") as other:
                for source in sources:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    whole = ["cp", "--archive", "--no-target-directory"]
                    _run([*whole, str(other / source.lstrip("/")), str(place)])
            return
        for source in sources:
            self._copy_context(self.context / source, place, many=len(sources) > 1 or target.endswith("/"))

    def _copy_context(self, source: Path, place: Path, *, many: bool) -> None:
        """As BuildKit copies: what is ignored is not there; of a folder, its content."""
        inside_context = source.relative_to(self.context)
        if not source.exists() or self.ignore(inside_context):
            raise FileNotFoundError(f"{inside_context} is not in the build context")
        if source.is_file():
            place = place / source.name if many or place.is_dir() else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
            return
        for file in self._files(source):
            copy = place / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)

    def _mounts(self, step: Instruction, root: Path) -> None:
        for flag, value in step.flags:
            if flag != "mount":
                continue
            wanted = mount(value)
            place = root / wanted["target"].lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            if wanted["type"] == "cache":
                source = self.work / "caches" / wanted["target"].strip("/").replace("/", "-")
                source.mkdir(parents=True, exist_ok=True)
            else:
                layers = self.images[wanted["from"]].layers
                held = (layer / wanted["source"].lstrip("/") for layer in layers)
                source = next(folder for folder in held if folder.exists())
            _run(["mount", "--bind", str(source), str(place)])

    @staticmethod
    def _unmount(step: Instruction, root: Path) -> None:
        for flag, value in step.flags:
            if flag == "mount":
                _run(["umount", str(root / mount(value)["target"].lstrip("/"))])


def inside(root: Path, image: Image, command: Sequence[str], **environment: str) -> list[str]:
    """The command that runs another as the image would: in its root and folder, by its user and variables."""
    user = [f"--userspec={image.user}"] if image.user else []
    variables = {"HOME": "/root", **image.environment, **environment}
    return [
        "chroot", *user, str(root),
        "/usr/bin/env", "--ignore-environment", f"--chdir={image.workdir}",
        *(f"{key}={value}" for key, value in variables.items()),
        *command,
    ]  # fmt: skip


def read_only(image: Image, root: Path) -> None:
    """Mount an image where nothing can be written but /tmp."""
    root.mkdir(parents=True, exist_ok=True)
    _overlay(image.layers, root)
    for folder in ("proc", "dev"):
        _run(["mount", "--rbind", f"/{folder}", str(root / folder)])
    _run(["mount", "-t", "tmpfs", "-o", "mode=1777,noexec", "tmpfs", str(root / "tmp")])


def leave_the_network() -> None:
    """From here on, this process and what it starts reach its own loopback alone."""
    clone_newnet, siocgifflags, siocsifflags, iff_up = 0x40000000, 0x8913, 0x8914, 0x1
    if ctypes.CDLL(None, use_errno=True).unshare(clone_newnet):
        raise OSError(ctypes.get_errno(), "a network namespace cannot be made")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, siocgifflags, request))[1]
        fcntl.ioctl(control, siocsifflags, struct.pack("16sh14x", b"lo", flags | iff_up))


def _join(workdir: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(workdir, path))


class _mounted:  # noqa: N801 (used as a function)
    def __init__(self, image: Image, root: Path) -> None:
        self.image, self.root = image, root

    def __enter__(self) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        _overlay(self.image.layers, self.root)
        return self.root

    def __exit__(self, *exception: object) -> None:
        _run(["umount", str(self.root)])


def _overlay(
    layers: Sequence[Path], root: Path, upper: Path | None = None, scratch: Path | None = None
) -> None:
    if upper is None and len(layers) == 1:
        _run(["mount", "--bind", "-o", "ro", str(layers[0]), str(root)])
        return
    options = f"lowerdir={':'.join(map(str, layers))}"
    if upper is not None:
        options += f",upperdir={upper},workdir={scratch}"
    _run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])


def _bind_system(root: Path) -> None:
    for folder in ("proc", "dev"):
        _run(["mount", "--rbind", f"/{folder}", str(root / folder)])
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", *_pip_files()):
        here, there = Path(path), root / path.lstrip("/")
        if not here.exists():
            continue
        if here.is_dir():
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
        _run(["mount", "--bind", "-o", "ro", path, str(there)])


def _pip_files() -> list[str]:
    """The configuration of pip on this machine, and the folders of packages that it names."""
    files = [Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]
    found = [str(file) for file in files if file.exists()]
    named = re.findall(r"(?:file://|(?<![\w:/]))(/[\w./-]+)", "\n".join(Path(f).read_text() for f in found))
    folders = dict.fromkeys(path.removesuffix("/simple") for path in named if Path(path).is_dir())
    return [*found, *folders]


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, env={"PATH": SYSTEM_PATH, "HOME": str(Path.home())})
