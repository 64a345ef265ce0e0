"""`landbridge graph rank`: submissions, JSON and tables from a match graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.graph.folder import Graph, names_in, open_graph
from landbridge.cli.options import AsJson, check_folder

if TYPE_CHECKING:
    from landbridge.experiments import NamedGraph


def rank(
    graph: Graph,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="A file of names, one a line (or the first column of a CSV): queries, or index images, "
            "which do not find themselves. By default all queries or, without any, the whole index.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="A method, or with --ground-truth several by commas: global, aqe, alpha-qe, dba, "
            "k-reciprocal, diffusion, egt-cosine, inliers, egt, id-qe, mmst-c. By default mmst-c; with "
            "--ground-truth all.",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Longest list of a query.")] = 100,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Submission to write: id,images.", dir_okay=False, callback=check_folder),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="gnd.json, a gnd_*.pkl (revisited or classic Oxford and Paris), or its folder: prints mAP.",
            exists=True,
        ),
    ] = None,
    min_positives: Annotated[int, typer.Option(min=1, help="Leave out queries with fewer positives.")] = 1,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline/--online",
            help="Offline: queries serve as bridges to one another. Online: each stands alone.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rank the index for queries, as a submission or JSON, or measure methods on a ground truth."""
    if ground_truth is None and out_file is None and not as_json:
        raise typer.BadParameter(
            "give --out, --ground-truth or --json, or nothing would be kept", param_hint="--out"
        )
    methods = [name.strip() for name in method.split(",") if name.strip()]
    if len(methods) > 1 and (ground_truth is None or out_file is not None):
        raise typer.BadParameter(
            "one method makes one submission; several are for --ground-truth", param_hint="--method"
        )
    with errors():
        named = open_graph(graph)
        result: dict[str, Any] = {}
        if ground_truth is not None:
            result["evaluation"] = named.evaluate(
                ground_truth, methods or None, offline=offline, min_positives=min_positives
            )
        chosen = (methods or ["mmst-c" if "mmst-c" in named.methods else "global"])[0]
        if out_file is not None:
            from landbridge.submission import write_submission

            asked = None if queries is None else names_in(queries)
            write_submission(out_file, named.rank(chosen, asked, limit, offline=offline), limit)
        if as_json:
            if ground_truth is None:
                result |= _rankings(named, chosen, queries, limit, offline)
            print_json(result)
            return
        if ground_truth is not None:
            out.print(_table(f"{graph.name}: {named.index} index images", result["evaluation"]))
        if out_file is not None:
            out.print(f"Wrote {escape(str(out_file))}.")


def _rankings(
    named: NamedGraph, method: str, queries: Path | None, limit: int, offline: bool
) -> dict[str, Any]:
    numbers = named.numbers(None if queries is None else names_in(queries))
    found = named.ranked(method, numbers, limit, offline=offline)
    rankings = []
    for query, images, scores, parents in zip(
        numbers.tolist(), found.ids.tolist(), found.scores.tolist(), found.parents.tolist(), strict=True
    ):
        hits = [
            {"image": named.ids[i], "score": score, "over": named.ids[parent] if parent >= 0 else None}
            for i, score, parent in zip(images, scores, parents, strict=True)
            if i >= 0
        ]
        rankings.append({"query": named.ids[query], "hits": hits})
    return {"method": method, "rankings": rankings}


def _table(title: str, evaluation: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nmethod", no_wrap=True)
    protocols = list(next(iter(evaluation.values())))
    for protocol in protocols:
        table.add_column(f"{escape(protocol)}\nmAP", justify="right", no_wrap=True)
        table.add_column("\nmP@10", justify="right", no_wrap=True)
    for method, scores in evaluation.items():
        figures = (scores[protocol][name] for protocol in protocols for name in ("mAP", "mP@10"))
        table.add_row(method, *(f"{figure:.1f}" for figure in figures))
    return table
