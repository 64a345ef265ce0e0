"""What every command says and how: results on stdout, progress, warnings and failures on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def errors() -> Iterator[None]:
    """Every expected failure becomes one line on stderr and exit code 1."""
    from connector.errors import ConnectorError
    from extractor.photo import PhotoError
    from extractor.weights import WeightsError
    from landbridge.datasets import DatasetError
    from ranking.match_store import MatchStoreError

    try:
        yield
    except (ConnectorError, PhotoError, WeightsError, DatasetError, MatchStoreError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        fail("stopped; the same command goes on where this one ended", code=130)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what failed and end the command."""
    err.print(f"[red]landbridge:[/red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def progress() -> Iterator[Any]:
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


def print_failures(failed: Mapping[Path, str], what: str) -> None:
    """List photos that could not be used, with the reasons."""
    if failed:
        err.print(f"[yellow]{len(failed)} {what}:[/yellow]")
        for path, reason in sorted(failed.items()):
            err.print(f"  {escape(str(path))}: {escape(reason)}", soft_wrap=True)


def print_json(value: object) -> None:
    """Print JSON on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
