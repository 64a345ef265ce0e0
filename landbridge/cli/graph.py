"""`landbridge graph`: match graphs from files of features, and experiments on them, without Milvus."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import err, errors, fail, out, print_json, progress
from landbridge.cli.options import AsJson, check_folder

if TYPE_CHECKING:
    from landbridge.experiments import NamedGraph
    from ranking.interchange import NeighbourLists

app = typer.Typer(
    help="Build match graphs from feature files or match lists, rank, measure, cluster, export.",
    no_args_is_help=True,
)

Graph = Annotated[
    Path,
    typer.Argument(help="Folder that `graph build` made.", exists=True, file_okay=False, show_default=False),
]
Confidence = Annotated[float, typer.Option(min=0, max=1, help="Edges of less confidence are cut.")]


@app.command()
def build(
    features: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Features of the index: .h5 of hloc, .npz, .delf, .delg_local, .delg_global, or folders of "
            "them.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    graph: Annotated[
        Path, typer.Option("--out", help="Folder for the graph and the verified pairs.", file_okay=False)
    ] = Path("graph"),
    queries: Annotated[
        list[Path] | None,
        typer.Option(
            help="Features of query images (may be repeated); with --lists a file of their names.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="Pairs that others verified, instead of verification: .npz, or EGT's text with inliers. Of "
            "FEATURES the global descriptors alone are used.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    neighbours: Annotated[
        Path | None,
        typer.Option(
            help="k-NN lists to verify (.npz or EGT's text), instead of the nearest global descriptors.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Verify all pairs (small sets).")] = False,
    candidates: Annotated[int, typer.Option(min=1, help="Nearest neighbours to verify in a round.")] = 100,
    rounds: Annotated[
        int, typer.Option(min=1, max=2, help="2: again with the neighbours of expanded descriptors.")
    ] = 2,
    backend: Annotated[
        str, typer.Option(help="Verification: batched, opencv, or reference (the DELF matcher).")
    ] = "batched",
    model: Annotated[
        str | None,
        typer.Option(help="similarity, affine or homography, as the backend has it.", show_default=False),
    ] = None,
    min_similarity: Annotated[
        float | None,
        typer.Option(help="Least cosine of matching local descriptors.", show_default="0.75"),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Lowe's ratio test, for SIFT and the like.", show_default="none")
    ] = None,
    max_features: Annotated[
        int | None, typer.Option(min=1, help="Strongest local features that are used.", show_default="all")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Verify queries with one another too, for `rank --offline`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the candidate pairs of photos whose features are in files, and build the match graph.

    Run it again after it was stopped, and it goes on; run it with more photos, and it verifies what is new.
    Photos whose features cannot be used are listed and left out; the exit code is then 1.
    """
    from extractor.files import read_features
    from landbridge.experiments import Built, build_graph, import_graph
    from ranking.verification import create_verifier

    if lists is None and not features:
        raise typer.BadParameter("give feature files, or --lists", param_hint="FEATURES")
    if lists is not None and (neighbours is not None or exhaustive):
        raise typer.BadParameter(
            "are verified already: leave out --neighbours and --exhaustive", param_hint="--lists"
        )
    options = {"model": model, "minimum_similarity": min_similarity, "ratio": ratio}
    with errors():
        if lists is not None:
            names = [name for path in queries or () for name in _names(path)]
            known = read_features(*features) if features else None
            built = Built(import_graph(_lists(lists), graph, queries=names, features=known))
        else:
            try:
                verifier = create_verifier(backend, **{k: v for k, v in options.items() if v is not None})
            except ImportError as error:
                fail(str(error))
            with progress() as bars:
                built = build_graph(
                    read_features(*features or ()),
                    graph,
                    queries=read_features(*queries) if queries else None,
                    neighbours=None if neighbours is None else _lists(neighbours),
                    exhaustive=exhaustive,
                    candidates=candidates,
                    rounds=rounds,
                    verifier=verifier,
                    max_features=max_features,
                    offline=offline,
                    progress=bars,
                )
        if as_json:
            print_json(
                {"pairs": built.pairs, "verified": built.verified, "failed": built.failed}
                | {"graph": built.graph.stats()}
            )
        else:
            made = built.graph
            outside = len(made) - made.index
            edges = made.graph.edges if made.graph is not None else 0
            out.print(f"{made.index} index images, {outside} queries, {edges} edges.")
            if built.pairs:
                out.print(f"{built.pairs} pairs, of which {built.verified} were verified now.")
            out.print(f"Wrote {escape(str(graph))}.")
    if built.failed:
        err.print(f"[yellow]{len(built.failed)} photos were left out:[/yellow]")
        for name, reason in sorted(built.failed.items()):
            err.print(f"  {escape(name)}: {escape(reason)}", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
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
        named = _open(graph)
        result: dict[str, Any] = {}
        if ground_truth is not None:
            result["evaluation"] = named.evaluate(
                ground_truth, methods or None, offline=offline, min_positives=min_positives
            )
        chosen = (methods or ["mmst-c" if "mmst-c" in named.methods else "global"])[0]
        if out_file is not None:
            from landbridge.submission import write_submission

            asked = None if queries is None else _names(queries)
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


@app.command()
def cluster(
    graph: Graph,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="CSV to write: id,cluster.", dir_okay=False, callback=check_folder),
    ] = None,
    confidence: Confidence = 0.5,
    as_json: AsJson = False,
) -> None:
    """Cut the maximum spanning forest of the index into landmarks; cluster 0 is the largest."""
    if out_file is None and not as_json:
        raise typer.BadParameter("give --out or --json, or nothing would be kept", param_hint="--out")
    with errors():
        clusters = _open(graph).clusters(confidence)
        if out_file is not None:
            rows = sorted((place, name) for name, place in clusters.items())
            part = out_file.with_name(f"{out_file.name}.part")
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", "cluster"])
                writer.writerows((name, place) for place, name in rows)
            part.replace(out_file)
        if as_json:
            print_json(clusters)
            return
        sizes = Counter(clusters.values())
        alone = sum(size == 1 for size in sizes.values())
        out.print(
            f"{len(sizes) - alone} clusters of two images or more, the largest of {sizes[0]}; "
            f"{alone} images are alone."
        )
        out.print(f"Wrote {escape(str(out_file))}.")


@app.command()
def export(
    graph: Graph,
    target: Annotated[Path, typer.Argument(help="File to write.", dir_okay=False, callback=check_folder)],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="graphml, egt (text with inliers) or npz; by default by the suffix of the file.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Write the graph for other programs; networkx reads the GraphML."""
    with errors():
        _open(graph).export(target, file_format or target.suffix.lstrip("."))
        out.print(f"Wrote {escape(str(target))}.")


@app.command()
def stats(graph: Graph, confidence: Confidence = 0.5, as_json: AsJson = False) -> None:
    """Count images, edges, components, clusters and confidences of the index."""
    with errors():
        facts = _open(graph).stats(confidence)
        if as_json:
            print_json(facts)
            return
        table = Table(show_header=False, box=None)
        for name, value in facts.items():
            table.add_row(name.replace("_", " "), escape(_text(value)))
        out.print(table)


def _open(folder: Path) -> NamedGraph:
    from landbridge.experiments import NamedGraph

    return NamedGraph.open(folder)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _lists(path: Path) -> NeighbourLists:
    from ranking.interchange import read_egt, read_npz

    return read_npz(path) if path.suffix.lower() == ".npz" else read_egt(path)


def _names(path: Path) -> list[str]:
    """The first column of a file, without a header `id`."""
    if path.is_dir():
        fail(f"{path} is a folder: give a file of names")
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    return names[1:] if names[:1] == ["id"] else names


def _rankings(
    named: NamedGraph, method: str, queries: Path | None, limit: int, offline: bool
) -> dict[str, Any]:
    numbers = named.numbers(None if queries is None else _names(queries))
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
