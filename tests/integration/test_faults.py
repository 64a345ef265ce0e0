"""Some of the faults of `benchmarks/faults.py`: nothing is lost or there twice, messages say what to do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SEED = 2018


def _scenarios() -> Any:
    folder = Path(__file__).parents[2] / "benchmarks/fault_scenarios"
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = sys.modules[folder.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


faults = _scenarios()
killed_client, killed_server, refused, writers, full_disk = (
    importlib.import_module(f"fault_scenarios.{name}")
    for name in ("killed_client", "killed_server", "refused", "writers", "full_disk")
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def worker(cache: Path) -> Iterator[Any]:
    with faults.Worker(cache) as worker:
        yield worker


@pytest.fixture(scope="session")
def other(cache: Path) -> Iterator[Any]:
    with faults.Worker(cache) as worker:
        yield worker


@pytest.fixture
def backend(deployment, tmp_path: Path) -> Any:
    """The deployment, Milvus Lite at paths that only the workers open."""
    return (
        faults.Backend(tmp_path) if deployment.lite else faults.Backend(tmp_path, *vars(deployment).values())
    )


def check(fault: Any) -> None:
    assert fault.tried
    assert (fault.rows_lost, fault.rows_duplicated) == (0, 0), fault


def test_clients_killed_in_ingest(backend, worker) -> None:
    check(killed_client.ingest(backend, worker, 3, SEED))


def test_clients_killed_in_graph_building(backend, worker) -> None:
    check(killed_client.graph(backend, worker, 3, SEED))


def test_answers_that_are_lost(backend, worker) -> None:
    check(writers.lost_answers(backend, worker, "" if backend.lite else "ada"))


def test_two_writers(backend, worker, other) -> None:
    if backend.lite:
        check(writers.second(backend, worker, other, 1))
        check(writers.two_of_one_process(backend, worker, 1))
    else:
        check(writers.two(backend, worker, other, 1))


def test_what_does_not_fit(backend, worker) -> None:
    for fault in refused.everything(backend, worker):
        check(fault)


@pytest.mark.parametrize("deployment", ["server"], indirect=True)
def test_servers_killed(own_standalone, deployment, worker, tmp_path: Path) -> None:
    backend = faults.Backend(tmp_path, own_standalone.uri, deployment.token)
    check(killed_server.ingest(backend, worker, own_standalone, 2, SEED))
    check(killed_server.search(backend, worker, own_standalone, 1, SEED))


@pytest.mark.skipif(bool(full_disk.unavailable()), reason=full_disk.unavailable())
def test_a_full_disk(worker, tmp_path: Path) -> None:
    with full_disk.small_disk(tmp_path / "disk", 64) as disk:
        check(full_disk.fill(faults.Backend(tmp_path), worker, disk))


def test_the_tally_sees_what_is_lost_and_what_is_twice() -> None:
    expected = faults.Content({"a": "1", "b": "2", "c": "3"}, 0)
    found = faults.Content({"a": "1", "b": "old", "d": "4"}, 2)
    assert (found.lost(expected), found.duplicated(expected)) == (2, 3)
    assert found.lacks(["a", "b", "c", "c"], expected) == 3
    assert (expected.lost(expected), expected.duplicated(expected)) == (0, 0)


@pytest.mark.parametrize("error", [ValueError("another"), KeyError("right")])
def test_a_message_that_is_not_the_expected_one_is_a_surprise(error: Exception) -> None:
    with pytest.raises(faults.SurpriseError), faults.refusal(ValueError, "right"):
        raise error


def test_what_is_not_refused_is_a_surprise() -> None:
    with pytest.raises(faults.SurpriseError, match="nothing failed"), faults.refusal(ValueError, ""):
        pass
    with faults.refusal(ValueError, "right") as told:
        raise ValueError("the right one")
    assert told == ["the right one"]
