"""Faults, provoked on Milvus Lite and on a real server: how many, and how many rows they lost or duplicated.

    python benchmarks/faults.py --json OUT [--quick] [--seed 2018] [--backend lite server]

Clients and servers are killed with SIGKILL at seeded moments, answers are lost, two programs write at once,
tokens, databases, dimensions and schemas are wrong, collections vanish, disks are full. After each fault the
work is resumed, and all that is there then is compared, row by row, with what an undisturbed run wrote.
Exits with 1 when a row was lost or is there twice, or when a message was not the expected one.

The server is Milvus 2.3.5, as the integration tests start it, where it can be started.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fault_scenarios import (
    Backend,
    Fault,
    SurpriseError,
    Worker,
    full_disk,
    killed_client,
    killed_server,
    refused,
    writers,
)
from pipeline import machine
from platformdirs import user_cache_path
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
KILLS = {"ingest": 10, "tenants": 4, "index": 4, "reindex": 8, "graph": 8}
SERVER_KILLS = {"server ingest": 4, "server tenants": 2, "server search": 4}
TOKEN = "root:Milvus"
DISK = {"lite": 64, "server": 900}
"""Megabytes; a server takes 200 before it holds a row."""

Scenario = Callable[[], Iterable[Fault]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--seed", type=int, default=2018, help="of the moments of the kills")
    arguments.add_argument("--backend", nargs="+", choices=["lite", "server"], default=["lite", "server"])
    arguments.add_argument("--quick", action="store_true", help="half of the kills")
    given = arguments.parse_args()
    done: list[Fault] = []
    surprises: list[str] = []
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.backend:
            for scenario in scenarios(name, Path(scratch) / name, given.seed, 2 if given.quick else 1):
                try:
                    for fault in scenario():
                        console.print(f"{name}: {fault.fault}, {fault.tried} tried", highlight=False)
                        done.append(fault)
                except SurpriseError as surprise:
                    surprises.append(f"{name}: {surprise}")
                    console.print(f"[red]not as expected:[/red] {surprises[-1]}", soft_wrap=True)
    console.print(tally(done))
    if surprises:
        console.print(f"[red]{len(surprises)} not as expected.[/red]")
    totals = total(done)
    if given.json:
        figures = {**totals, "surprises": len(surprises)}
        report = {"name": "faults", "machine": machine(), "figures": figures, "ratios": {}}
        given.json.write_text(json.dumps({**report, "faults": [asdict(fault) for fault in done]}, indent=1))
    sys.exit(bool(surprises or totals["rows_lost"] or totals["rows_duplicated"]))


def scenarios(name: str, folder: Path, seed: int, less: int) -> Iterator[Scenario]:
    """What is tried on a backend, one after the other; `less` divides the number of kills."""
    kills = {job: count // less for job, count in (KILLS | SERVER_KILLS).items()}
    with ExitStack() as stack:
        server = None
        if name == "server":
            if reason := standalone().unavailable():
                print(f"server: left out: {reason}")
                return
            server = stack.enter_context(started(folder / "data"))
        at = Backend(folder, server.uri, TOKEN) if server else Backend(folder)
        worker, other = (stack.enter_context(Worker(folder)) for _ in range(2))
        for tenant, job in (("", "ingest"), ("ada", "tenants")):
            yield lambda t=tenant, j=job: [killed_client.ingest(at, worker, kills[j], seed, t)]
        for job in ("index", "reindex", "graph"):
            yield lambda j=job: [getattr(killed_client, j)(at, worker, kills[j], seed)]
        for tenant in ("", "ada"):
            yield lambda t=tenant: [writers.lost_answers(at, worker, t)]
        yield lambda: [writers.two_of_one_process(at, worker, 2)]
        yield lambda: [(writers.two if server else writers.second)(at, worker, other, 4)]
        yield lambda: refused.everything(at, worker)
        if server:
            for tenant, job in (("", "server ingest"), ("ada", "server tenants")):
                yield lambda t=tenant, j=job: [killed_server.ingest(at, worker, server, kills[j], seed, t)]
            yield lambda: [killed_server.search(at, worker, server, kills["server search"], seed)]
        if reason := full_disk.unavailable():
            print(f"{name}: full disk: left out: {reason}")
            return
        disk = stack.enter_context(full_disk.small_disk(folder / "disk", DISK[name]))
        if server:
            server.kill()
            at = Backend(folder, stack.enter_context(started(disk)).uri, TOKEN)
        yield lambda: [full_disk.fill(at, worker, disk)]


@contextmanager
def started(folder: Path) -> Iterator[Any]:
    """A server of the integration tests with its data in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = ROOT / ".pytest_cache/d/milvus-2.3.5"  # by the tests
    server = standalone()(
        folder, unpacked if unpacked.exists() else user_cache_path("landbridge") / "milvus-2.3.5"
    )
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@cache
def standalone() -> Any:
    path = ROOT / "tests/integration/milvus_standalone.py"
    spec = importlib.util.spec_from_file_location("milvus_standalone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Standalone


def total(faults: Sequence[Fault]) -> dict[str, int]:
    return {
        "faults_tried": sum(fault.tried for fault in faults),
        "rows_lost": sum(fault.rows_lost for fault in faults),
        "rows_duplicated": sum(fault.rows_duplicated for fault in faults),
    }


def tally(faults: Sequence[Fault]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_footer=True)
    table.add_column("fault", "all")
    table.add_column("backend")
    for column, number in zip(("tried", "rows lost", "rows duplicated"), total(faults).values(), strict=True):
        table.add_column(column, str(number), justify="right")
    for fault in faults:
        numbers = (fault.tried, fault.rows_lost, fault.rows_duplicated)
        table.add_row(fault.fault, fault.backend, *map(str, numbers))
    return table


if __name__ == "__main__":
    main()
