"""From a file or folder as it was published to a weights file of ours."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from extractor.conversion.cnnimageretrieval import convert_cnnimageretrieval, is_cnnimageretrieval
from extractor.conversion.converted import Converted
from extractor.conversion.keras import convert_keras, is_keras
from extractor.conversion.naver_dir import convert_naver_dir, is_naver_dir
from extractor.conversion.protocol_buffers import Message, WireError
from extractor.conversion.published import Published, published
from extractor.conversion.slim import convert_slim, is_slim
from extractor.conversion.tensor_bundle import TensorBundle
from extractor.conversion.torch_checkpoint import load_checkpoint
from extractor.conversion.variables import listed
from extractor.files.atomic import write_atomically
from extractor.weights import WeightsError, packed_weights, weights_folder

_AGAIN = "download it again"
_ABOVE = 2  # folders above a checkpoint whose name may say what it is
_PCA = ("mean.datum", "pca_proj_mat.datum")


@dataclass(frozen=True)
class Conversion:
    """A conversion that was done.

    Attributes:
        path: the weights file.
        known: what the source is, if it is known.
        metadata: what the file says of the network.
        parameters: numbers in it by part.
        written: False where the same file was there already.
    """

    path: Path
    known: Published | None
    metadata: dict[str, object]
    parameters: dict[str, int]
    written: bool


def convert(
    source: Path, target: Path | None = None, *, overwrite: bool = False, checked: bool = True
) -> Conversion:
    """Turn published weights into a weights file.

    Args:
        source: an archive as it was downloaded, the folder it unpacks to, or a checkpoint of PyTorch.
        target: the weights file; None for the one that extractors look for, in the folder of weights files.
        overwrite: write over a weights file of other content.
        checked: compare the SHA-256 with what is known of it.

    Raises:
        WeightsError: the source is missing, cut off, damaged, has another SHA-256 than it should, or holds no
            weights that are known; or the target has another content.
    """
    names = [source.name, *(parent.name for parent in list(source.absolute().parents)[:_ABOVE])]
    known = next((found for name in names if (found := published(name))), None)
    if not source.exists():
        where = f"download it from {known.address}" if known else "landbridge weights list says what there is"
        raise WeightsError(f"there is no {source}: {where}")
    if checked and known is not None and known.sha256 and source.name == known.file:
        _check(source, known.sha256)
    with _unpacked(source) as place:
        try:
            converted = _converted(place)
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(place), str(source))) from error
    if known is not None:
        metadata: dict[str, object] = {**converted.metadata, "source": known.name}
        if known.score_threshold is not None:
            metadata["score_threshold"] = known.score_threshold
        converted = replace(converted, metadata=metadata)
    target = target or weights_folder() / (known.makes if known else converted.file)
    content = packed_weights(converted.state, converted.metadata)
    written = not target.exists() or target.read_bytes() != content
    if written and target.exists() and not overwrite:
        raise WeightsError(
            f"{target} is there already, with other weights: --replace writes over them, --out names another"
        )
    if written:
        write_atomically(target, lambda part: part.write_bytes(content))
    parameters: dict[str, int] = {}
    for name, value in converted.state.items():
        part = name.partition(".")[0]
        parameters[part] = parameters.get(part, 0) + value.numel()
    return Conversion(target, known, dict(converted.metadata), parameters, written)


def _check(path: Path, beginning: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(beginning):
        raise WeightsError(
            f"{path} has the SHA-256 {digest}, which by its name should begin with {beginning}: {_AGAIN}, or "
            "pass --unchecked if you know better"
        )


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The source, or a temporary folder with what an archive holds."""
    gzipped = source.name.endswith((".tar.gz", ".tgz"))
    if not source.is_file() or not (gzipped or _is_plain_zip(source)):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="landbridge-") as folder:
        try:
            if gzipped:
                with tarfile.open(source, "r:gz") as packed:
                    _extract(packed, Path(folder).resolve())
            else:
                with zipfile.ZipFile(source) as zipped:
                    zipped.extractall(folder)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
            raise WeightsError(f"cannot unpack {source}: {error}; {_AGAIN}") from error
        yield Path(folder)


def _extract(packed: tarfile.TarFile, folder: Path) -> None:
    """Write out the files of an archive; Python's own filters came with 3.11.4."""
    for member in packed:
        target = (folder / member.name).resolve()
        if not target.is_relative_to(folder) or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name} is a link or lies outside the archive")
        content = packed.extractfile(member)
        if content is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)


def _is_plain_zip(path: Path) -> bool:
    """Whether it is a zip archive, and not one of PyTorch's checkpoints, which are such archives too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return not any(name.endswith("/data.pkl") for name in archive.namelist())


def _converted(source: Path) -> Converted:
    if source.is_file() and source.suffix != ".index":
        return _of_torch(source)
    indices = sorted(source.rglob("*.index")) if source.is_dir() else [source]
    files = sorted(path for path in source.rglob("*.pt*")) if source.is_dir() else []
    if len(indices) + len(files) != 1:
        found = listed(path.name for path in [*indices, *files]) or "none"
        raise WeightsError(
            f"{source} should hold one checkpoint, *.index of TensorFlow or *.pt of PyTorch, and has {found}"
        )
    return _of_tensorflow(indices[0]) if indices else _of_torch(files[0])


def _of_torch(path: Path) -> Converted:
    checkpoint = load_checkpoint(path)
    if is_cnnimageretrieval(checkpoint):
        return convert_cnnimageretrieval(path, checkpoint)
    if is_naver_dir(checkpoint):
        return convert_naver_dir(path, checkpoint)
    raise WeightsError(
        f"{path} is neither of cnnimageretrieval-pytorch nor of deep-image-retrieval: it holds "
        f"{listed(map(str, checkpoint)) or 'nothing'}"
    )


def _of_tensorflow(index: Path) -> Converted:
    bundle = TensorBundle(index)
    if is_slim(bundle):
        model = index.parent.parent
        converted = convert_slim(bundle, model / "saved_model.pb")
        folder = next((place / "pca" for place in (model, model.parent) if (place / "pca").is_dir()), None)
        return converted if folder is None else _with_pca(converted, folder)
    if is_keras(bundle):
        return convert_keras(bundle)
    raise WeightsError(
        f"{index} is neither of TF-Slim's ResNet nor of Keras objects: it holds "
        f"{listed(bundle.names) or 'nothing'}"
    )


def _with_pca(converted: Converted, folder: Path) -> Converted:
    """With the published projection of local descriptors: `pca.mean` [C], `pca.projection` [C, d]."""
    mean, rows = (_datum(folder / name) for name in _PCA)
    if rows.ndim != 2 or mean.size != rows.shape[1]:
        raise WeightsError(f"{folder}: a projection {rows.shape} does not go with a mean {mean.shape}")
    state = {"pca.mean": mean.reshape(-1), "pca.projection": np.ascontiguousarray(rows.T)}
    return replace(
        converted, state={**converted.state, **{name: torch.from_numpy(v) for name, v in state.items()}}
    )


def _datum(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """An array from a file with one DatumProto."""
    try:
        datum = Message(path.read_bytes())
        shape = Message(datum.data(1)).numbers(1)
        values = b"".join(Message(datum.data(2)).all_data(1))
        return np.frombuffer(values, "<f4").astype(np.float32).reshape(shape)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (WireError, ValueError) as error:
        raise WeightsError(f"{path} is no array of DELF: {error}; {_AGAIN}") from error
