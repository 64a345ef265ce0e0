"""`landbridge graph`: match graphs of feature files and of collections in Milvus, and what comes of them."""

from __future__ import annotations

import typer

from landbridge.cli.graph import build, cluster, expand, export, knn, match, rank, stats

app = typer.Typer(
    help="Match graphs of a collection or of feature files: build, rank, measure, cluster, export, expand.",
    no_args_is_help=True,
)
app.command()(build.build)
app.command()(knn.knn)
app.command()(match.match)
app.command()(rank.rank)
app.command()(cluster.cluster)
app.command()(export.export)
app.command()(stats.stats)
app.command()(expand.expand)
app.command()(expand.drop_expanded)
