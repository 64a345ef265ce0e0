"""`landbridge serve`: an extractor as an HTTP service."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from landbridge.cli.console import err, errors, fail, progress

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Short names of what networks calculate in."""

_MIB = 1 << 20


def serve(
    extractor: Annotated[str, typer.Option(help="One of `landbridge extractors`.")] = "default",
    device: Annotated[
        str, typer.Option(help="`cpu`, `cuda:1`, or `cuda`: each worker takes the next GPU.")
    ] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="What networks calculate in: `float32`, `bfloat16` or `float16` (`bf16` …).")
    ] = "float32",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 8420,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with the networks in memory. On a CPU one is enough.")
    ] = 1,
    learn: Annotated[
        Path | None,
        typer.Option(
            help="For an extractor that must learn: the photos of the index.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    learnt: Annotated[
        Path | None,
        typer.Option(
            help="Or a file of what one learnt, from another service's /v1/extractor/learnt.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of the bearer token that clients must show. Or set LANDBRIDGE_EXTRACTOR_TOKEN.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    max_mib: Annotated[float, typer.Option(min=0.001, help="Largest file of a photo, in MiB.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest photo.")] = 100,
    max_photos: Annotated[int, typer.Option(min=1, help="Most photos in a request.")] = 32,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Most photos that wait in a worker; the next is answered 429.")
    ] = 128,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most photos extracted together.", show_default="32 on a GPU, 1 per core on a CPU"
        ),
    ] = None,
) -> None:
    """Extract photos for others: `POST /v1/extract`, described at `/docs`.

    `landbridge index --extractor-url` uses it. SIGTERM and Ctrl-C end it when what was taken on is answered.
    """
    with errors():
        from extractor.registry import create_extractor, registered

        try:
            from extractor.service.limits import Limits
            from extractor.service.server import Settings
            from extractor.service.server import serve as run
        except ModuleNotFoundError as error:
            fail(f"the service needs the package {error.name}: pip install 'landbridge[service]'")
        if learn and learnt:
            raise typer.BadParameter("give the photos or what was learnt, not both", param_hint="--learnt")
        most = round(max_mib * _MIB)
        usual = Limits()
        request_bytes = max(usual.request_bytes, most)
        settings = Settings(
            partial(create_extractor, registered(extractor)),
            device,
            DTYPES.get(dtype, dtype),
            token=_token(token_file),
            limits=Limits(
                photo_bytes=most,
                pixels=round(max_megapixels * 1e6),
                photos=min(max_photos, max_waiting),
                request_bytes=request_bytes,
                waiting_photos=max_waiting,
                waiting_bytes=max(usual.waiting_bytes, request_bytes),
                batch=max_batch,
            ),
            learnt=_learnt(registered(extractor), learn, learnt),
        )
        if not settings.token and not _is_loopback(host):
            err.print(
                f"[yellow]Whoever reaches {host} can use this:[/yellow] set LANDBRIDGE_EXTRACTOR_TOKEN to "
                "ask for a token"
            )
        raise typer.Exit(run(settings, host, port, workers))


def _token(file: Path | None) -> str:
    from extractor.remote import TOKEN_VARIABLE

    token = os.environ.get(TOKEN_VARIABLE, "") if file is None else file.read_text().strip()
    if (file and not token) or not token.isascii() or not token.isprintable():
        place = file or f"the variable {TOKEN_VARIABLE}"
        raise ValueError(f"{place} must hold a token of printable ASCII characters")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _learnt(name: str, photos: Path | None, file: Path | None) -> bytes | None:
    """What was learnt, or is now, in a process whose memory is given back."""
    if photos is None:
        return None if file is None else file.read_bytes()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_learn, name, photos).result()


def _learn(name: str, photos: Path) -> bytes | None:
    from extractor.registry import create_extractor
    from extractor.sampling import learn_from_sample
    from landbridge.photos import photos_in

    extractor = create_extractor(name)
    if not extractor.learns:
        raise ValueError(f"{name} has nothing to learn: leave --learn out")
    named, _ = photos_in(photos)
    if not named:
        raise ValueError(f"{photos} holds no photos (JPEG, PNG, WebP, TIFF, BMP, GIF)")
    with progress() as report:
        learn_from_sample(extractor, named, report)
    return extractor.learnt
