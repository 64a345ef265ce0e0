"""The command line: `index`, `search`, `rank`, `evaluate` and the other commands, a module each."""

from __future__ import annotations

import typer

from landbridge.cli import (
    alias,
    attach,
    demo,
    evaluate,
    extract,
    extractors,
    graph,
    import_features,
    index,
    info,
    migrate,
    rank,
    reindex,
    rerank,
    search,
    serve,
    train,
    weights,
)
from landbridge.cli.options import METHODS

__all__ = ["METHODS", "app", "main"]

app = typer.Typer(
    help="Find every photo of a landmark in Milvus, also those that share no pixel with the query.",
    epilog="Exit codes: 0 done, 1 failed or a query was not answered, 2 wrong use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(index.index)
app.command()(extract.extract)
app.command("import")(import_features.import_features)
app.command()(search.search)
app.command()(rank.rank)
app.command()(evaluate.evaluate)
app.command()(attach.attach)
app.command()(rerank.rerank)
app.command()(info.info)
app.command()(migrate.migrate)
app.command()(reindex.reindex)
app.command()(alias.alias)
app.command()(alias.drop)
app.command()(demo.demo)
app.command()(extractors.extractors)
app.command()(serve.serve)
app.command()(train.train)
app.add_typer(graph.app, name="graph")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point of the `landbridge` command."""
    app()
