"""`landbridge graph stats`: figures of a match graph."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.graph.folder import Confidence, Graph, open_graph
from landbridge.cli.options import AsJson


def stats(graph: Graph, confidence: Confidence = 0.5, as_json: AsJson = False) -> None:
    """Count images, edges, components, clusters and confidences of the index."""
    with errors():
        facts = open_graph(graph).stats(confidence)
        if as_json:
            print_json(facts)
            return
        table = Table(show_header=False, box=None)
        for name, value in facts.items():
            table.add_row(name.replace("_", " "), escape(_text(value)))
        out.print(table)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
