"""`landbridge extractors`: what can be named to `landbridge index --extractor`."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.options import AsJson

_RUNS = 3


def extractors(
    measure: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTO",
            help="Time those whose weights are here on this photo, on one core.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the extractors: what they are, their dimensions, and whether their weights are here."""
    from extractor.registry import CARDS, DEFAULT
    from extractor.weights import WeightsError

    rows: list[dict[str, Any]] = []
    for name, card in CARDS.items():
        weights = []
        for needed in card.configuration.weights():
            try:
                needed.path()
                missing = ""
            except WeightsError as error:
                missing = str(error)
            weights.append(
                {
                    "origin": needed.origin,
                    "licence": needed.licence,
                    "here": not missing,
                    "missing": missing or None,
                }
            )
        rows.append(
            {
                "name": name,
                "default": name == DEFAULT,
                "summary": card.summary,
                "dimension": card.dimension,
                "local_dimension": card.local_dimension,
                "ready": all(needed["here"] for needed in weights),
                "weights": weights,
            }
        )
    if measure is not None:
        with errors():
            for row in rows:
                row["milliseconds"] = _milliseconds(row["name"], measure) if row["ready"] else None
    if as_json:
        print_json(rows)
        return
    out.print(_extractors(rows))
    _print_weights(rows)


def _extractors(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Extractors", title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    table.add_column("global + local", justify="right", no_wrap=True)
    table.add_column("here")
    measured = any("milliseconds" in row for row in rows)
    if measured:
        table.add_column("ms/photo", justify="right")
    for row in rows:
        sizes = (row["dimension"], row["local_dimension"])
        table.add_row(
            escape(row["name"]) + (" *" if row["default"] else ""),
            escape(row["summary"]),
            " + ".join("any" if size is None else f"{size}-d" for size in sizes),
            "yes" if row["ready"] else "no",
            *([_shown(row["milliseconds"])] if measured else []),
        )
    table.caption = "* the default. Lite: EfficientNet-Lite. noFT: not fine-tuned." + (
        "" if measured else " --measure PHOTO: how fast they are here."
    )
    return table


def _shown(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.0f}"


def _milliseconds(name: str, path: Path) -> float | None:
    """Median time of extraction from a photo in memory; None where one photo is too little to learn from."""
    from extractor.external import NAME as EXTERNAL
    from extractor.photo import read_photo
    from extractor.registry import create_extractor

    if name == EXTERNAL:
        return None
    extractor = create_extractor(name)
    try:
        extractor.learn([path])
    except ValueError:
        return None
    photo = read_photo(path, extractor.longest_side)
    extractor.extract(photo, path.stem)
    taken = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        extractor.extract(photo, path.stem)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def _print_weights(rows: list[dict[str, Any]]) -> None:
    """Not a table: what is to be copied stands on a line of its own."""
    needed_by: dict[tuple[str, str, bool], list[str]] = {}
    for row in rows:
        for needed in row["weights"]:
            key = (needed["origin"], needed["licence"], needed["here"])
            needed_by.setdefault(key, []).append(row["name"])
    out.print("[italic]Weights[/italic], and how they are had\n")
    for (origin, licence, here), names in needed_by.items():
        out.print(f"  {escape(origin)}", soft_wrap=True)
        state = "here" if here else "not here"
        out.print(
            f"      [dim]{state}; for {', '.join(names)}; licence: {escape(licence)}[/dim]", soft_wrap=True
        )
