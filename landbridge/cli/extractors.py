"""`landbridge extractors`: what can be named to `landbridge index --extractor`."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import out, print_json
from landbridge.cli.options import AsJson


def extractors(as_json: AsJson = False) -> None:
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
    if as_json:
        print_json(rows)
        return
    out.print(_extractors(rows))
    out.print(_weights(rows))


def _extractors(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Extractors", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    table.add_column("global", justify="right")
    table.add_column("local", justify="right")
    table.add_column("here")
    for row in rows:
        sizes = (row["dimension"], row["local_dimension"])
        table.add_row(
            escape(row["name"]) + (" *" if row["default"] else ""),
            escape(row["summary"]),
            *("any" if size is None else f"{size}-d" for size in sizes),
            "yes" if row["ready"] else "no",
        )
    table.caption = "* the default"
    return table


def _weights(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Weights", title_justify="left")
    for column in ("how they are had", "licence", "for"):
        table.add_column(column, overflow="fold")
    table.add_column("here")
    needed_by: dict[tuple[str, str, bool], list[str]] = {}
    for row in rows:
        for needed in row["weights"]:
            key = (needed["origin"], needed["licence"], needed["here"])
            needed_by.setdefault(key, []).append(row["name"])
    for (origin, licence, here), names in needed_by.items():
        table.add_row(escape(origin), escape(licence), ", ".join(names), "yes" if here else "no")
    return table
