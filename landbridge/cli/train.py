"""`landbridge train`: weights of DELF and DELG from photos of landmarks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import err, errors, out, print_failures, print_json, progress
from landbridge.cli.options import AsJson

if TYPE_CHECKING:
    from extractor.training.run import Trained
    from landbridge.datasets.labelled_photos import LabelledPhotos

SAMPLE_WORLD = "sample-world"
_WORLD_PHOTOS = 20
_WORLD_SIZE = (256, 192)


def train(
    method: Annotated[str, typer.Argument(help="delf or delg.")],
    data: Annotated[
        str,
        typer.Option(
            help="A folder with one subfolder per landmark, or with the CSV and the photos of Google "
            f"Landmarks v2; or {SAMPLE_WORLD}, which is rendered."
        ),
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for checkpoints, logs and weights.", file_okay=False)
    ] = Path("training"),
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns landmark_id,images or id,landmark_id.", show_default="of --data"
        ),
    ] = None,
    backbone: Annotated[str, typer.Option(help="lite0, lite2, resnet50 or resnet101.")] = "lite0",
    start: Annotated[
        str | None,
        typer.Option(
            help="A ResNet to start from: a folder, or a name on the hub.", show_default="microsoft/resnet-…"
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Times that every photo is shown.")] = 10,
    attention_epochs: Annotated[
        float, typer.Option(help="The same while DELF's attention learns over the trained backbone.")
    ] = 5,
    crop: Annotated[
        int | None,
        typer.Option(
            help="Pixels along the squares that the network is shown.", show_default="delf 224, delg 512"
        ),
    ] = None,
    attention_crop: Annotated[int, typer.Option(help="The same while DELF's attention learns.")] = 720,
    batch: Annotated[int, typer.Option(help="Photos that go through the network at once.")] = 32,
    accumulate: Annotated[int, typer.Option(help="Batches that make one step.")] = 1,
    optimiser: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    rate: Annotated[float, typer.Option(help="Highest learning rate of the new layers.")] = 1e-3,
    backbone_rate: Annotated[float, typer.Option(help="Highest learning rate of the backbone.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Decay of weights.")] = 1e-4,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 and so on.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[
        int | None, typer.Option(help="Threads that read photos.", show_default="one per core")
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            help="Landmarks held back to measure retrieval on.", show_default="a tenth, 250 at most"
        ),
    ] = None,
    log_every: Annotated[int, typer.Option(help="Steps between rows of the log.")] = 20,
    validate_every: Annotated[
        int | None, typer.Option(help="Steps between validations.", show_default="a tenth of all")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
    landmarks: Annotated[int, typer.Option(min=4, help=f"Landmarks of the {SAMPLE_WORLD}.")] = 80,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over other weights of the same name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train DELF (a classifier, then attention) or DELG (global and local at once) on photos of landmarks.

    The weights go to the folder of weights files, and `landbridge index --extractor` uses them. The same
    command again goes on from the last checkpoint, also after the process was killed. Photos that cannot be
    read are listed and skipped.
    """
    with errors():
        from extractor.training.run import train as run
        from extractor.training.settings import Settings

        settings = Settings(
            epochs=epochs,
            attention_epochs=attention_epochs,
            crop=crop or (512 if method == "delg" else 224),
            attention_crop=attention_crop,
            batch=batch,
            accumulate=accumulate,
            optimiser=optimiser,  # type: ignore[arg-type]
            rate=rate,
            backbone_rate=backbone_rate,
            weight_decay=weight_decay,
            device=device,
            precision=precision,  # type: ignore[arg-type]
            threads=threads,
            held_back=validation,
            seed=seed,
            log_every=log_every,
            validate_every=validate_every,
            checkpoint_every=checkpoint_every,
        )
        with progress() as bars:
            shown = _photos(data, labels, folder, landmarks, seed, bars)
            trained = run(
                method, backbone, shown.photos, folder, settings, start, replace=replace, report=bars
            )
        following = shlex.join(["landbridge", "index", "PHOTOS", "--extractor", trained.extractor])
        if as_json:
            print_json(_as_dict(trained, shown, folder) | {"next": following})
        else:
            out.print(_table(trained))
            out.print(
                f"Learned from {trained.photos} photos of {trained.landmarks} landmarks. Weights: "
                f"{escape(str(trained.weights))}; logs: {escape(str(folder))}. Next:",
                soft_wrap=True,
            )
            out.print(f"  {following}", soft_wrap=True)
        if shown.missing or shown.unlabelled:
            err.print(
                f"[yellow]{shown.missing} photos of the CSV are not there; {shown.unlabelled} photos have no "
                "landmark.[/yellow]"
            )
        print_failures(trained.failed, "photos could not be read")


def _photos(
    data: str,
    labels: Path | None,
    folder: Path,
    landmarks: int,
    seed: int,
    report: Callable[[str, int, int], None],
) -> LabelledPhotos:
    from landbridge.datasets.labelled_photos import labelled_photos

    if data != SAMPLE_WORLD:
        return labelled_photos(Path(data), labels)
    return labelled_photos(_rendered(folder, landmarks, seed, report))


def _rendered(folder: Path, landmarks: int, seed: int, report: Callable[[str, int, int], None]) -> Path:
    """Photos of the sample world, a folder per building; rendered unless they are there already."""
    from landbridge.sample_world import SampleWorld

    world = {"seed": seed, "landmarks": landmarks, "photos_per_landmark": _WORLD_PHOTOS, "size": _WORLD_SIZE}
    place = folder / f"world-{seed}-{landmarks}"
    done, parameters = place / "parameters.json", json.dumps(world)
    if not (done.exists() and done.read_text() == parameters):
        sample = SampleWorld(**world, lookalikes=0, distractors=0)  # type: ignore[arg-type]
        sample.write_folders(place, progress=lambda n, total: report("render", n, total))
        done.write_text(parameters)
    return place


def _as_dict(trained: Trained, shown: LabelledPhotos, folder: Path) -> dict[str, Any]:
    return {
        "extractor": trained.extractor,
        "weights": str(trained.weights),
        "digest": trained.digest,
        "logs": str(folder),
        "photos": trained.photos,
        "landmarks": trained.landmarks,
        "validation_photos": trained.validation_photos,
        "validation_landmarks": trained.validation_landmarks,
        "missing": shown.missing,
        "unlabelled": shown.unlabelled,
        "failed": {str(path): reason for path, reason in trained.failed.items()},
        "stages": {
            name: {
                "steps": stage.steps,
                "losses": stage.losses,
                "validation_map": {str(step): value for step, value in stage.validation.items()},
                "photos_per_second": stage.photos_per_second,
            }
            for name, stage in trained.stages.items()
        },
    }


def _table(trained: Trained) -> Table:
    held = f"{trained.validation_photos} photos of {trained.validation_landmarks} landmarks held back"
    table = Table(title=f"{trained.extractor}; retrieval among {held}", title_justify="left")
    table.add_column("stage")
    for column in ("steps", "mAP before", "after"):
        table.add_column(column, justify="right")
    table.add_column("losses")
    for name, stage in trained.stages.items():
        scores = list(stage.validation.values())
        ends = (f"{scores[0]:.1f}", f"{scores[-1]:.1f}") if scores else ("", "")
        losses = ", ".join(f"{loss} {value:.3g}" for loss, value in stage.losses.items())
        table.add_row(name, str(stage.steps), *ends, losses)
    return table
