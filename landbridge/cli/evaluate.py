"""`landbridge evaluate`: the methods measured on a labelled data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import err, errors, print_failures, print_json, progress
from landbridge.cli.figures import print_evaluation
from landbridge.cli.options import (
    METHODS,
    Access,
    CollectionName,
    Database,
    Offline,
    ReportFile,
    SearchParams,
    Tenant,
    Token,
    check_folder,
    check_method,
    json_object,
)


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="jpg/ with gnd.json or gnd_*.pkl (revisited Oxford/Paris), one subfolder per landmark "
            "(leave-one-out), index/, test/ and a solution CSV (Google Landmarks v2), index/, queries/ and a "
            "CSV with coordinates (place recognition), or photos of Holidays.",
            exists=True,
            file_okay=False,
        ),
    ],
    methods: Annotated[str, typer.Option(help="Rows of the table, by commas.")] = ",".join(METHODS),
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write the figures as JSON to this file; - for stdout.",
            dir_okay=False,
            callback=check_folder,
        ),
    ] = None,
    report: ReportFile = None,
    curves: Annotated[
        Path | None,
        typer.Option(
            help="Also draw precision over recall of the results of all queries (PNG).",
            dir_okay=False,
            callback=check_folder,
        ),
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(
            help="Coordinates are the truth: metres within which a photo is right. Without any other truth "
            "25 is the default.",
            show_default=False,
        ),
    ] = None,
    min_positives: Annotated[int, typer.Option(min=1, help="Leave out queries with fewer positives.")] = 1,
    offline: Offline = False,
    search_params: SearchParams = None,
    local_index: Annotated[
        bool | None,
        typer.Option(
            "--local-index/--no-local-index",
            help="Also index local descriptors, a row each, for candidates that global ones miss; or search "
            "without them where they were indexed.",
            show_default=False,
        ),
    ] = None,
    uri: Annotated[
        str, typer.Option(help="Where to index; by default a Milvus Lite file in the user's cache folder.")
    ] = "",
    collection: CollectionName = "evaluate",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
) -> None:
    """Measure the methods on a labelled data set: mAP, mP@10, seconds, and what each step gains.

    Also Recall@1/5/10; where some queries match nothing, how well the confidence tells right results from
    wrong ones over all queries; where landmarks are labelled, GAP and accuracy of recognition.

    The index is kept, so a second evaluation of the same data set starts with the searches. A step that
    several methods need, such as verification, counts in the seconds of the first that needs it.
    """
    from landbridge.datasets import load_dataset
    from landbridge.evaluation import evaluate as run

    chosen = [method.strip() for method in methods.split(",") if method.strip()]
    for method in chosen or [""]:
        check_method(method, "--methods")
    params = json_object(search_params, "--search-params")
    with errors():
        loaded = load_dataset(dataset, min_positives, radius)
        access = Access(uri or str(_evaluation_path(dataset)), collection, token, db, tenant)
        with access.open(search_params=params, local_index=local_index is not False) as opened:
            with progress() as bars:
                figures = run(
                    loaded, opened, chosen, offline=offline, local_index=bool(local_index), progress=bars
                )
            if json_file is not None and str(json_file) == "-":
                print_json(figures.as_dict())
            else:
                print_evaluation(figures)
                if json_file is not None:
                    json_file.write_text(json.dumps(figures.as_dict(), indent=2) + "\n")
            if report is not None:
                figures.write_report(report, loaded, opened)
            if curves is not None:
                figures.write_curves(curves)
            for written in (report, curves):
                if written is not None:
                    err.print(f"Wrote {escape(str(written))}.")
            print_failures(figures.failed, "photos could not be read")
            if figures.failed:
                raise typer.Exit(1)


def _evaluation_path(dataset: Path) -> Path:
    import hashlib

    from platformdirs import user_cache_path

    place = hashlib.sha256(str(dataset.resolve()).encode()).hexdigest()[:12]
    return user_cache_path("landbridge") / "evaluate" / f"{dataset.resolve().name}-{place}.db"
