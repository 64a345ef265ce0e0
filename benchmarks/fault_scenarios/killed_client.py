"""A process is killed at seeded moments until it gets through; then everything is as if it never had been."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from . import Backend, Fault, Place, Worker

DEATHS = 4
"""Most of one run, before it may end."""


def ingest(backend: Backend, worker: Worker, kills: int, seed: int, tenant: str = "") -> Fault:
    """`Collection.stage` and `publish`; then again, with every third photo changed."""
    runs: list[dict[str, Any]] = [{"edition": 1}, {"edition": 2}]
    name = "tenants" if tenant else "ingest"
    return _killed(backend, worker, name, "ingest", backend.place(name, tenant), runs, kills, seed)


def index(backend: Backend, worker: Worker, kills: int, seed: int) -> Fault:
    """`landbridge index`, its match store included."""
    runs = [{"photos": str(backend.folder / "photos")}]
    return _killed(backend, worker, "index", "index", backend.place("index"), runs, kills, seed)


def reindex(backend: Backend, worker: Worker, kills: int, seed: int) -> Fault:
    """`landbridge reindex`: from one extractor to another, behind an alias."""
    place = backend.place("old")
    worker.complete("index", place, photos=str(backend.folder / "photos"))
    return _killed(
        backend, worker, "reindex", "reindex", replace(place, name="faults_new"), [{}], kills, seed
    )


def graph(backend: Backend, worker: Worker, kills: int, seed: int) -> Fault:
    """The k-NN graph of somebody's collection."""
    place = backend.place("graph")
    worker.complete("crowd", place)
    return _killed(backend, worker, "k-NN graph", "graph", place, [{}], kills, seed)


def _killed(
    backend: Backend,
    worker: Worker,
    name: str,
    job: str,
    whole: Place,
    runs: list[dict[str, Any]],
    kills: int,
    seed: int,
) -> Fault:
    """Kill a job as often as that.

    Args:
        backend: where.
        worker: what runs it.
        name: of the fault.
        job: one of `workers`.
        whole: where it runs undisturbed.
        runs: the arguments with which it is run, one after the other.
        kills: how often.
        seed: of the moments.
    """
    steps, expected = [], []
    for arguments in runs:
        steps.append(worker.complete(job, whole, **arguments).steps or 0)
        expected.append(worker.content(whole))
    moments = random.Random(f"{seed} {name} {backend}")
    tried = lost = duplicated = number = 0
    while tried < kills:
        number += 1
        place = backend.place(f"{job}{whole.tenant}_{number}", whole.tenant)
        if job in ("graph", "reindex"):  # of a collection that is there
            place = replace(place, uri=whole.uri)
        for arguments, most, right in zip(runs, steps, expected, strict=True):
            for _ in range(min(DEATHS, kills - tried)):
                death = moments.randrange(1, most + 1), moments.random() / 50
                outcome = worker.run(job, place, death=death, **arguments)
                if not outcome.killed:
                    break
                tried += 1
                if outcome.acknowledged:
                    lost += worker.content(place).lacks(outcome.acknowledged, right)
            worker.complete(job, place, **arguments)
            found = worker.content(place)
            lost += found.lost(right)
            duplicated += found.duplicated(right)
    return Fault(f"client killed: {name}", str(backend), tried, lost, duplicated)
