"""The command line: index, search, rank, evaluate, demo and info."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from landbridge.evaluation import Evaluation
    from landbridge.index import Index
    from landbridge.results import Ranking

METHODS = ("global", "aqe", "verify", "id-qe", "mmst-c")

app = typer.Typer(
    help="Find every photo of a landmark in Milvus, also those that share no pixel with the query.",
    epilog="Exit codes: 0 done, 1 failed or a query was not answered, 2 wrong use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Uri = Annotated[
    str,
    typer.Option(
        envvar="MILVUS_URI",
        help="A path ending in .db for the embedded Milvus Lite, or http(s)://host:port of a server.",
    ),
]
CollectionName = Annotated[str, typer.Option("--collection", help="Name of the collection.")]
Token = Annotated[
    str,
    typer.Option(envvar="MILVUS_TOKEN", help="Token or user:password of the server.", show_default=False),
]
Database = Annotated[
    str, typer.Option("--db", envvar="MILVUS_DB", help="Database on the server.", show_default=False)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline/--online",
        help="Offline: query photos serve as bridges to one another. Online: each stands alone.",
    ),
]


@dataclass(frozen=True)
class _Access:
    uri: str
    collection: str
    token: str
    db: str

    def open(self, dimension: int | None = None) -> Index:
        from landbridge.index import Index

        return Index(self.uri, self.collection, dimension=dimension, token=self.token, db_name=self.db)


@contextmanager
def _errors() -> Iterator[None]:
    """Every expected failure becomes one line on stderr and exit code 1."""
    from connector.errors import ConnectorError
    from extractor.photo import PhotoError
    from extractor.weights import WeightsError
    from landbridge.datasets import DatasetError
    from ranking.match_store import MatchStoreError

    try:
        yield
    except (ConnectorError, PhotoError, WeightsError, DatasetError, MatchStoreError, ValueError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on where this one ended", code=130)


def _fail(message: str, code: int = 1) -> NoReturn:
    err.print(f"[red]landbridge:[/red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def _check_folder(path: Path | None) -> Path | None:
    """A result is not computed to find that there is nowhere to write it."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    return path


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}", param_hint="--method")


@contextmanager
def _progress() -> Iterator[Any]:
    """Bars on stderr, one per step, for functions that report (step, done, total)."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bars = Progress(*columns, console=err)
    tasks: dict[str, Any] = {}

    def report(step: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()
        if step not in tasks:
            tasks[step] = bars.add_task(step, total=total)
        bars.update(tasks[step], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


def _print_failures(failed: Mapping[Path, str], what: str) -> None:
    if failed:
        err.print(f"[yellow]{len(failed)} {what}:[/yellow]")
        for path, reason in sorted(failed.items()):
            err.print(f"  {escape(str(path))}: {escape(reason)}", soft_wrap=True)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


@app.command()
def index(
    photos: Annotated[
        Path, typer.Argument(help="A folder (searched with its subfolders) or one photo.", exists=True)
    ],
    dimension: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a new collection: PCA-whiten global descriptors to so many components; "
            "by default they are only centred.",
            show_default=False,
        ),
    ] = None,
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Add photos: extract descriptors, store them in Milvus, verify neighbours.

    A second run does only what is new or changed, and a run that was stopped, by Ctrl-C or by force, goes
    on where it ended. Photos that cannot be read are listed and skipped; the exit code is 1 only when none
    could be added. A photo's id is its path below the folder, without suffix.
    """
    with _errors(), _Access(uri, collection, token, db).open(dimension) as opened:
        with _progress() as report:
            added = opened.add(photos, report)
        if as_json:
            _print_json(
                {
                    "added": len(added.added),
                    "unchanged": added.unchanged,
                    "failed": {str(path): reason for path, reason in added.failed.items()},
                    "verified_pairs": added.verified,
                    "photos": len(opened),
                }
            )
        else:
            out.print(
                f"Photos: {len(added.added)} added, {added.unchanged} unchanged, {len(added.failed)} failed, "
                f"{len(opened)} in {escape(uri)} ({escape(collection)}). Pairs verified: {added.verified}."
            )
        _print_failures(added.failed, "photos could not be added")
        if not added.added and not added.unchanged:
            if not added.failed:
                _fail(f"{photos} holds no photos (JPEG, PNG, WebP, TIFF, BMP, GIF)")
            raise typer.Exit(1)


@app.command()
def search(
    photo: Annotated[Path, typer.Argument(help="The query photo.", exists=True, dir_okay=False)],
    limit: Annotated[int, typer.Option(min=1, help="Longest list.")] = 20,
    method: Method = "mmst-c",
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Find the photos that show what one photo shows.

    For each photo found, the table says how: verified against the query (with the number of inliers),
    bridged over other photos, or similar, by its descriptor alone.
    """
    _check_method(method)
    with _errors(), _Access(uri, collection, token, db).open() as opened:
        ranking = opened.search(photo, limit, method)
        if as_json:
            _print_json(ranking.as_dict())
        else:
            out.print(_ranking_table(ranking))


def _ranking_table(ranking: Ranking) -> Table:
    table = Table(title=f"Photos like {escape(ranking.query_id)}", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("photo", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("found", overflow="fold")
    for place, hit in enumerate(ranking.hits, 1):
        if hit.how == "verified":
            found = f"verified, {hit.chain[0].inliers} inliers"
        elif hit.how == "bridged":
            found = "bridged over " + " → ".join(hit.bridges)
        else:
            found = "similar"
        table.add_row(str(place), escape(hit.image_id), f"{hit.score:.3f}", escape(found))
    return table


@app.command()
def rank(
    queries: Annotated[Path, typer.Argument(help="A folder of query photos, or one photo.", exists=True)],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Submission to write: id,images with ids by spaces.",
            dir_okay=False,
            callback=_check_folder,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report to look at (HTML).", dir_okay=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Longest list of a query.")] = 100,
    method: Method = "mmst-c",
    offline: Offline = False,
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Rank the index for a folder of queries and write a submission.

    A query that cannot be read gets an empty list in the submission, is named on stderr, and makes the
    exit code 1.
    """
    from landbridge.photos import photos_in
    from landbridge.submission import write_submission

    _check_method(method)
    if out_file is None and report is None and not as_json:
        raise typer.BadParameter(
            "give --out, --report or --json, or nothing would be kept", param_hint="--out"
        )
    with _errors(), _Access(uri, collection, token, db).open() as opened:
        named, failed = photos_in(queries)
        if not named:
            _fail(f"{queries} holds no photos")
        with _progress() as bars:
            found, unread = opened.queries(named, progress=bars)
            retrieval = opened.retrieval(found, offline=offline, progress=bars)
            rankings = retrieval.rank(method, limit)
        failed |= unread
        answered = {ranking.query_id: ranking.image_ids for ranking in rankings}
        if out_file is not None:
            write_submission(out_file, {query: answered.get(query, ()) for query in named}, limit)
        if report is not None:
            opened.write_report(report, retrieval, rankings, named, title=f"Queries of {queries.name}")
        if as_json:
            _print_json(
                {
                    "rankings": [ranking.as_dict() for ranking in rankings],
                    "failed": {str(path): reason for path, reason in failed.items()},
                }
            )
        else:
            out.print(f"{len(rankings)} of {len(named)} queries ranked over {len(opened)} photos.")
            for written in (out_file, report):
                if written:
                    out.print(f"Wrote {escape(str(written))}.")
        _print_failures(failed, "queries were not answered")
        if failed:
            raise typer.Exit(1)


@app.command()
def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="jpg/ with gnd.json or gnd_*.pkl (revisited Oxford/Paris), one subfolder per landmark "
            "(leave-one-out), or index/, test/ and a solution CSV (Google Landmarks v2).",
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
            callback=_check_folder,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report to look at (HTML).", dir_okay=False)
    ] = None,
    min_positives: Annotated[int, typer.Option(min=1, help="Leave out queries with fewer positives.")] = 1,
    offline: Offline = False,
    uri: Annotated[
        str, typer.Option(help="Where to index; by default a Milvus Lite file in the user's cache folder.")
    ] = "",
    collection: CollectionName = "evaluate",
    token: Token = "",
    db: Database = "",
) -> None:
    """Measure the methods on a labelled data set: mAP, mP@10, seconds, and what each step gains.

    The index is kept, so a second evaluation of the same data set starts with the searches. A step that
    several methods need, such as verification, counts in the seconds of the first that needs it.
    """
    from landbridge.datasets import load_dataset
    from landbridge.evaluation import evaluate as run

    chosen = [method.strip() for method in methods.split(",") if method.strip()]
    for method in chosen or [""]:
        if method not in METHODS:
            raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}", param_hint="--methods")
    with _errors():
        loaded = load_dataset(dataset, min_positives)
        access = _Access(uri or str(_evaluation_path(dataset)), collection, token, db)
        with access.open() as opened:
            with _progress() as bars:
                figures = run(loaded, opened, chosen, offline=offline, progress=bars)
            if json_file is not None and str(json_file) == "-":
                _print_json(figures.as_dict())
            else:
                _print_evaluation(figures)
                if json_file is not None:
                    json_file.write_text(json.dumps(figures.as_dict(), indent=2) + "\n")
            if report is not None:
                figures.write_report(report, loaded, opened)
                err.print(f"Wrote {escape(str(report))}.")
            _print_failures(figures.failed, "photos could not be read")
            if figures.failed:
                raise typer.Exit(1)


def _evaluation_path(dataset: Path) -> Path:
    import hashlib

    from platformdirs import user_cache_path

    place = hashlib.sha256(str(dataset.resolve()).encode()).hexdigest()[:12]
    return user_cache_path("landbridge") / "evaluate" / f"{dataset.resolve().name}-{place}.db"


def _print_evaluation(figures: Evaluation) -> None:
    table = Table(
        title=f"{escape(figures.dataset)}: {figures.queries} queries, {figures.index} index photos",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("\nmethod", no_wrap=True)
    for protocol in figures.protocols:
        table.add_column(f"{escape(protocol)}\nmAP", justify="right", no_wrap=True)
        table.add_column("\ngain", justify="right", no_wrap=True, style="dim")
        table.add_column("\nmP@10", justify="right", no_wrap=True)
    table.add_column("\nseconds", justify="right", no_wrap=True)
    before: dict[str, float] = {}
    for method, scores, seconds in figures.rows():
        row = [method]
        for protocol, score in scores.items():
            gain = f"{score['mAP'] - before[protocol]:+.1f}" if protocol in before else ""
            row += [f"{score['mAP']:.1f}", gain, f"{score['mP@10']:.1f}"]
            before[protocol] = score["mAP"]
        table.add_row(*row, f"{seconds:.1f}")
    out.print(table)


@app.command()
def info(
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Say what an index holds: photos, descriptors, extractor, verified pairs."""
    with _errors(), _Access(uri, collection, token, db).open() as opened:
        facts = opened.info()
        if as_json:
            _print_json(facts)
            return
        table = Table(show_header=False, box=None)
        for name, value in facts.items():
            table.add_row(name.replace("_", " "), escape(str(value)))
        out.print(table)


@app.command()
def demo(
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Your own photos, labelled as for evaluate or not; by default a rendered world.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the index and the report.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the rendered world.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run everything once, on a rendered world or on your own photos, and write a report.

    Index, search, verification, ID-QE and MMST-C on the embedded Milvus Lite; the table of methods where
    the truth is known; report.html with every bridge drawn.
    """
    from landbridge.demo import run_demo

    with _errors():
        with _progress() as bars:
            result = run_demo(photos, folder, seed, bars)
        if as_json:
            _print_json(result.as_dict())
            return
        if result.evaluation is not None:
            _print_evaluation(result.evaluation)
        out.print(
            f"{result.photos} photos, {result.bridged} results reached over bridging photos alone. "
            f"Open {escape(str(result.report))} in a browser to see every bridge."
        )
        _print_failures(result.failed, "photos could not be read")


def main() -> None:
    """Entry point of the `landbridge` command."""
    app()
