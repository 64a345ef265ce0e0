"""`landbridge weights`: which published weights are known, and turning them into files of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.options import AsJson

app = typer.Typer(
    help="Published weights: which are known, and turning them into files of ours.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="What was downloaded: an archive, what it unpacks to, or a checkpoint (.pt, .pth, .index)."
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The weights file.", show_default="where the extractor looks for it", dir_okay=False
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over a weights file of other content.")
    ] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not compare the SHA-256 with what is known of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn published weights into a weights file that extractors read."""
    from extractor.conversion.convert import convert as converted
    from extractor.weights import weights_digest

    with errors():
        done = converted(source, target, overwrite=replace, checked=not unchecked)
        names = _extractors().get(done.path.name, [])
        facts = {
            "file": str(done.path),
            "written": done.written,
            "digest": weights_digest(done.path),
            "source": done.known.name if done.known else None,
            "parameters": done.parameters,
            "metadata": done.metadata,
            "extractors": names,
        }
    if as_json:
        print_json(facts)
        return
    out.print(f"{'wrote' if done.written else 'unchanged:'} {escape(str(done.path))}", soft_wrap=True)
    table = Table(show_header=False, box=None)
    for part, count in done.parameters.items():
        table.add_row(part, f"{count:,} numbers")
    for name, value in done.metadata.items():
        table.add_row(name.replace("_", " "), escape(str(value)))
    out.print(table)
    if names:
        out.print(f"for --extractor {' or '.join(names)}")


@app.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List published weights that can be converted, and the weights files that are here."""
    from extractor.weights import weights_folder

    with errors():
        folder, published, files = weights_folder(), _published(), _files()
    if as_json:
        print_json({"folder": str(folder), "published": published, "files": files})
        return
    _print_published(published)
    _print_files(files, folder)


def _extractors() -> dict[str, list[str]]:
    """Names of the extractors that read each weights file."""
    from extractor.registry import CARDS
    from extractor.weights import StoredWeights

    found: dict[str, list[str]] = {}
    for name, card in CARDS.items():
        for needed in card.configuration.weights():
            if isinstance(needed, StoredWeights):
                found.setdefault(needed.file, []).append(name)
    return found


def _published() -> list[dict[str, Any]]:
    from extractor.conversion.published import PUBLISHED
    from extractor.weights import weights_folder

    extractors = _extractors()
    return [
        {
            "file": one.file,
            "what": one.what,
            "address": one.address,
            "licence": one.licence,
            "bytes": None,
            "sha256_begins": one.sha256,
            "makes": one.makes,
            "extractors": extractors.get(one.makes, []),
            "downloaded": next(
                (
                    str(path)
                    for folder in (Path(), weights_folder())
                    for path in (folder / one.file, folder / one.name)
                    if path.exists()
                ),
                None,
            ),
            "converted": _source(weights_folder() / one.makes) == one.name,
        }
        for one in PUBLISHED
    ]


def _files() -> list[dict[str, Any]]:
    """The weights files that are here, and those that extractors look for."""
    from extractor.weights import weights_digest, weights_folder

    extractors = _extractors()
    here = {path.name for path in weights_folder().glob("*.pt")}
    return [
        {
            "file": name,
            "here": name in here,
            "bytes": (weights_folder() / name).stat().st_size if name in here else None,
            "digest": weights_digest(weights_folder() / name) if name in here else None,
            "source": _source(weights_folder() / name),
            "extractors": extractors.get(name, []),
        }
        for name in sorted(here | extractors.keys())
    ]


def _source(path: Path) -> str | None:
    """Which published weights a weights file was made from; None if it is not here, or says nothing."""
    from extractor.weights import WeightsError, load_metadata

    try:
        return load_metadata(path).get("source") if path.is_file() else None
    except WeightsError:
        return None


def _print_published(rows: list[dict[str, Any]]) -> None:
    """Not a table: names and addresses that are to be copied stand on lines of their own."""
    out.print("[italic]Published weights[/italic]: landbridge weights convert FILE, without unpacking it\n")
    for row in rows:
        state = "converted" if row["converted"] else "downloaded" if row["downloaded"] else "not here"
        begins = row["sha256_begins"]
        facts = (
            f"{state}; becomes {row['makes']}, for {', '.join(row['extractors']) or 'none'}; "
            f"licence: {row['licence']}; size unknown; SHA-256 {f'begins {begins}' if begins else 'unknown'}"
        )
        out.print(f"  [bold]{escape(row['file'])}[/bold] {escape(row['what'])}", soft_wrap=True)
        out.print(f"      {escape(row['address'])}", soft_wrap=True)
        out.print(f"      [dim]{escape(facts)}[/dim]", soft_wrap=True)


def _print_files(rows: list[dict[str, Any]], folder: Path) -> None:
    out.print(f"\n[italic]Weights files[/italic] in {escape(str(folder))}\n", soft_wrap=True)
    table = Table("file", "for", "converted from", "MB", "digest", box=box.SIMPLE_HEAD)
    for row in rows:
        if row["here"]:
            table.add_row(
                escape(row["file"]),
                ", ".join(row["extractors"]) or "none",
                escape(row["source"] or ""),
                f"{row['bytes'] / 1e6:.1f}",
                row["digest"],
            )
    if table.row_count:
        out.print(table)
    missing = [row["file"] for row in rows if not row["here"]]
    out.print(f"  not here: {escape(', '.join(missing) or 'none')}", soft_wrap=True)
