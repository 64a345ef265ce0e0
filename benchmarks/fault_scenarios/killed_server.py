"""The server is killed with SIGKILL at seeded moments and started again on the same data."""

from __future__ import annotations

import random
import re
import time
from typing import Any

from . import Backend, Fault, SurpriseError, Worker

PATIENT, HASTY = 90.0, 2.0
"""Seconds for a call: within the first, the server is back; within the second, it is not."""

WAY_OUT = r"check the address, and that it is up|check that it is up, or allow a longer timeout|wait a minute"


def ingest(backend: Backend, worker: Worker, server: Any, kills: int, seed: int, tenant: str = "") -> Fault:
    """While photos are indexed: by turns, the client waits until the server is back, or gives up."""
    name = "tenants" if tenant else "ingest"
    whole = backend.place(f"served_{name}", tenant)
    worker.complete("ingest", whole)
    expected = worker.content(whole)
    moments = random.Random(f"{seed} {name}")
    lost = duplicated = 0
    told: list[str] = []
    for number in range(kills):
        place = backend.place(f"served_{name}_{number}", tenant)
        patient = number % 2 == 0
        worker.start("ingest", place, timeout=PATIENT if patient else HASTY)
        acknowledged = _strike(worker, server, moments.randrange(1, 6), moments.random() / 20)
        if not patient:
            message, more = _gave_up(worker)
            told.append(message)
        server.start()
        if patient:
            outcome = worker.outcome()
            more = outcome.acknowledged
            if outcome.failed:
                raise SurpriseError(f"the server came back, and the client failed: {outcome.failed}")
        server.wait()
        if not patient:
            lost += worker.content(place).lacks(acknowledged + more, expected)
            worker.complete("ingest", place, timeout=PATIENT)
        found = worker.content(place)
        lost += found.lost(expected)
        duplicated += found.duplicated(expected)
    return Fault(f"server killed: {name}", str(backend), kills, lost, duplicated, told)


def search(backend: Backend, worker: Worker, server: Any, kills: int, seed: int) -> Fault:
    """While searches run: by turns, the client waits until the server is back, or gives up."""
    place = backend.place("searched")
    worker.complete("ingest", place)
    expected = worker.content(place)
    moments = random.Random(f"{seed} search")
    lost = duplicated = 0
    told: list[str] = []
    for number in range(kills):
        patient = number % 2 == 0
        worker.start("search", place, times=40, timeout=PATIENT if patient else HASTY)
        _strike(worker, server, moments.randrange(2, 20), moments.random() / 100)
        if not patient:
            told.append(_gave_up(worker)[0])
        server.start()
        if patient and (outcome := worker.outcome()).done != []:
            raise SurpriseError(f"searches went wrong when the server came back: {outcome}")
        server.wait()
        found = worker.content(place)
        lost += found.lost(expected)
        duplicated += found.duplicated(expected)
    return Fault("server killed: search", str(backend), kills, lost, duplicated, told)


def _strike(worker: Worker, server: Any, after: int, delay: float) -> list[str]:
    """Kill the server a moment after so many acknowledgements; what was acknowledged."""
    acknowledged: list[str] = []
    for number, answer in enumerate(worker.answers(), 1):
        if "acknowledged" not in answer:
            raise SurpriseError(f"the job ended before the server was killed: {answer}")
        acknowledged += answer["acknowledged"]
        if number == after:
            break
    time.sleep(delay)
    server.kill()
    return acknowledged


def _gave_up(worker: Worker) -> tuple[str, list[str]]:
    """What the user was told, and what had been acknowledged."""
    outcome = worker.outcome()
    if not outcome.failed or not re.search(WAY_OUT, outcome.failed):
        raise SurpriseError(f"the server was gone, and the client said: {outcome}")
    return outcome.failed, outcome.acknowledged
