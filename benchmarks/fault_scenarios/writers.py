"""Several writers, or one whose calls are repeated: everything is as if one had written once."""

from __future__ import annotations

from . import Backend, Fault, SurpriseError, Worker

PHOTOS = 24


def lost_answers(backend: Backend, worker: Worker, tenant: str = "") -> Fault:
    """Milvus does what it is told, its answer is lost, and the client repeats the call."""
    whole = backend.place(f"heard{tenant}", tenant)
    few = list(range(PHOTOS // 3))
    worker.complete("ingest", whole, numbers=few)
    worker.complete("ingest", whole, numbers=few, edition=2)
    expected = worker.content(whole)
    place = backend.place(f"unheard{tenant}", tenant)
    worker.complete("ingest_deaf", place, numbers=few)
    found = worker.content(place)
    name = "answers lost: tenants" if tenant else "answers lost: ingest"
    return Fault(name, str(backend), 1, found.lost(expected), found.duplicated(expected))


def two(backend: Backend, worker: Worker, other: Worker, times: int) -> Fault:
    """Two programs index the same photos, in another order, and then photos of their own."""
    whole = backend.place("alone")
    worker.complete("ingest", whole)
    expected = worker.content(whole)
    same = [list(range(PHOTOS)), list(range(PHOTOS))[::-1]]
    own = [same[0][: PHOTOS // 2], same[0][PHOTOS // 2 :]]
    lost = duplicated = 0
    for number in range(times):
        place = backend.place(f"together_{number}")
        writers = (worker, other)
        for writer, numbers in zip(writers, own if number % 2 else same, strict=True):
            writer.start("ingest", place, numbers=numbers)
        for outcome in [writer.outcome() for writer in writers]:
            if outcome.failed:
                raise SurpriseError(f"of two writers, one failed: {outcome.failed}")
        found = worker.content(place)
        lost += found.lost(expected)
        duplicated += found.duplicated(expected)
    return Fault("two writers at once", str(backend), times, lost, duplicated)


def second(backend: Backend, worker: Worker, other: Worker, times: int) -> Fault:
    """A second program opens the Milvus Lite path that one writes to: it is refused."""
    whole = backend.place("alone")
    worker.complete("ingest", whole)
    expected = worker.content(whole)
    lost = duplicated = 0
    told = []
    for number in range(times):
        place = backend.place(f"second_{number}")
        worker.start("ingest_held", place)
        next(worker.answers())
        outcome = other.run("ingest", place)
        if not outcome.failed or "is in use by another process" not in outcome.failed:
            raise SurpriseError(f"a second process wrote to Milvus Lite: {outcome}")
        told.append(outcome.failed)
        worker.proceed()
        if worker.outcome().failed:
            raise SurpriseError("the first of two processes failed")
        found = worker.content(place)
        lost += found.lost(expected)
        duplicated += found.duplicated(expected)
    return Fault("second writer", str(backend), times, lost, duplicated, told)


def two_of_one_process(backend: Backend, worker: Worker, times: int) -> Fault:
    """Two threads do, each with a connection of its own."""
    whole = backend.place("single")
    worker.complete("ingest", whole)
    expected = worker.content(whole)
    lost = duplicated = 0
    for number in range(times):
        place = backend.place(f"threads_{number}")
        worker.complete("ingest_twice", place)
        found = worker.content(place)
        lost += found.lost(expected)
        duplicated += found.duplicated(expected)
    return Fault("two writers in one process", str(backend), times, lost, duplicated)
