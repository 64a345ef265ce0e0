"""`landbridge rank`: rankings of a folder of queries, as a submission and as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, fail, out, print_failures, print_json, progress
from landbridge.cli.options import (
    Access,
    AsJson,
    CollectionName,
    Database,
    ExtractorUrl,
    Method,
    NoLocalIndex,
    Offline,
    QueryFeatures,
    ReportFile,
    SearchParams,
    Tenant,
    Token,
    Uri,
    check_folder,
    check_method,
    json_object,
)


def rank(
    queries: Annotated[
        Path | None,
        typer.Argument(help="A folder of query photos, or one photo.", exists=True, show_default=False),
    ] = None,
    features: QueryFeatures = None,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Submission to write: id,images with ids by spaces.",
            dir_okay=False,
            callback=check_folder,
        ),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            help="Recognition submission to write: id,landmarks, a landmark and its confidence.",
            dir_okay=False,
            callback=check_folder,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="For --landmarks: a CSV id,landmark_id of the index photos. By default the landmark is the "
            "first folder of a photo's id.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    report: ReportFile = None,
    limit: Annotated[int, typer.Option(min=1, help="Longest list of a query.")] = 100,
    method: Method = "mmst-c",
    offline: Offline = False,
    extractor_url: ExtractorUrl = None,
    search_params: SearchParams = None,
    no_local_index: NoLocalIndex = False,
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Rank the index for a folder of queries and write a submission.

    A query that cannot be read gets an empty list in the submission, is named on stderr, and makes the
    exit code 1.
    """
    from extractor.files import read_features
    from landbridge.photos import photos_in
    from landbridge.recognition import landmark_labels, recognise
    from landbridge.submission import write_recognition, write_submission

    check_method(method)
    if out_file is None and landmarks is None and report is None and not as_json:
        raise typer.BadParameter(
            "give --out, --landmarks, --report or --json, or nothing would be kept", param_hint="--out"
        )
    if labels is not None and landmarks is None:
        raise typer.BadParameter("is for --landmarks: give that too", param_hint="--labels")
    if queries is None and features is None:
        raise typer.BadParameter("give a folder of photos, or --features of them", param_hint="QUERIES")
    if queries is None and report is not None:
        raise typer.BadParameter("shows the photos: give their folder too", param_hint="--report")
    params = json_object(search_params, "--search-params")
    access = Access(uri, collection, token, db, tenant)
    with (
        errors(),
        access.open(
            extractor_url=extractor_url, search_params=params, local_index=not no_local_index
        ) as opened,
    ):
        named, failed = ({}, {}) if queries is None else photos_in(queries)
        if queries is not None and not named:
            fail(f"{queries} holds no photos")
        labelled = {} if landmarks is None else landmark_labels(opened.library.ids, labels)
        with progress() as bars:
            if features is None:
                names = list(named)
                found, unread = opened.queries(named, progress=bars)
            else:
                names = list(named or read_features(features))
                found, unread = opened.stored_queries(features, named or None, progress=bars)
            retrieval = opened.retrieval(found, offline=offline, progress=bars)
            rankings = retrieval.rank(method, limit)
        failed |= unread
        answered = {ranking.query_id: ranking.image_ids for ranking in rankings}
        if out_file is not None:
            write_submission(out_file, {query: answered.get(query, ()) for query in names}, limit)
        if landmarks is not None:
            recognised = {ranking.query_id: recognise(ranking, labelled) for ranking in rankings}
            write_recognition(landmarks, {query: recognised.get(query) for query in names})
        if report is not None:
            shown = "" if queries is None else queries.name
            opened.write_report(report, retrieval, rankings, named, title=f"Queries of {shown}")
        if as_json:
            print_json(
                {
                    "rankings": [ranking.as_dict() for ranking in rankings],
                    "failed": {str(path): reason for path, reason in failed.items()},
                }
            )
        else:
            out.print(f"{len(rankings)} of {len(names)} queries ranked over {len(opened)} photos.")
            for written in (out_file, landmarks, report):
                if written:
                    out.print(f"Wrote {escape(str(written))}.")
        print_failures(failed, "queries were not answered")
        if failed:
            raise typer.Exit(1)
