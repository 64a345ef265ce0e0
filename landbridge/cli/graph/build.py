"""`landbridge graph build`: a match graph from files of features, or from match lists, without Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import err, errors, fail, out, print_json, progress
from landbridge.cli.graph.folder import names_in
from landbridge.cli.options import AsJson

if TYPE_CHECKING:
    from ranking.interchange import NeighbourLists


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
            help="k-NN lists to verify (.npz, EGT's text, or the folder of `graph knn`), instead of the "
            "nearest global descriptors.",
            exists=True,
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
            names = [name for path in queries or () for name in names_in(path)]
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


def _lists(path: Path) -> NeighbourLists:
    from ranking.interchange import NeighbourLists, read_egt, read_npz

    if path.is_dir():
        from connector.knn_graph import KnnGraph

        graph = KnnGraph.open(path)
        lists = graph.matrix()
        names = [str(name) for name in graph.ids.read(0, len(graph))]
        return NeighbourLists(names, lists.indptr, lists.indices, {"weights": lists.data})
    return read_npz(path) if path.suffix.lower() == ".npz" else read_egt(path)
