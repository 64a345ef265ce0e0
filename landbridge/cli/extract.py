"""`landbridge extract`: the features of any number of photos to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, fail, out, print_failures, print_json, progress
from landbridge.cli.options import AsJson


def extract(
    photos: Annotated[
        Path, typer.Argument(help="A folder (searched with its subfolders) or one photo.", exists=True)
    ],
    features: Annotated[
        Path, typer.Option("--out", help="Folder for the features; made, or continued.", file_okay=False)
    ],
    extractor: Annotated[
        str | None,
        typer.Option(
            help="What makes the features, one of `landbridge extractors`.", show_default="xfeat-lite2"
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="`cpu`, `cuda` for all GPUs of the machine, or `cuda:1` for one.")
    ] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="What networks calculate in: `float32`, `bfloat16` or `float16`.")
    ] = "float32",
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="`npz`, `h5` (hloc), `delg`, or `delf`, which has no global descriptors.",
            show_default="npz",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Use a Ray cluster: its address, `auto` where this machine belongs to one, `local` to start "
            "one here. Its machines must see photos and features under the same paths.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the features of photos to files, on all cores or GPUs, or on a cluster.

    `landbridge import` takes them into a collection. A second run does only what is new or changed, and a run
    that was stopped, by Ctrl-C or by force, goes on where it ended. Photos that cannot be read are listed
    here and in failed.csv; the exit code is 1 only when none could be extracted.
    """
    from extractor.batch import extract_photos
    from landbridge.photos import photos_in

    with errors():
        named, left_out = photos_in(photos)
        with progress() as report:
            done = extract_photos(
                named,
                features,
                extractor=extractor,
                device=device,
                dtype=dtype,
                format=kind,
                ray=ray,
                left_out=left_out,
                progress=report,
            )
        if as_json:
            print_json(
                {
                    "extracted": done.extracted,
                    "unchanged": done.unchanged,
                    "failed": {str(path): reason for path, reason in done.failed.items()},
                }
            )
        else:
            out.print(
                f"Photos: {done.extracted} extracted, {done.unchanged} unchanged, {len(done.failed)} failed. "
                f"Features are in {escape(str(features))}."
            )
        print_failures(done.failed, "photos could not be extracted")
        if not done.extracted and not done.unchanged:
            if not done.failed:
                fail(f"{photos} holds no photos (JPEG, PNG, WebP, TIFF, BMP, GIF)")
            raise typer.Exit(1)
