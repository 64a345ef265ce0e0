from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector import client as client_module
from connector.client import Client, DataNotMatchException, MilvusException
from connector.errors import (
    AccessDeniedError,
    CollectionMissingError,
    RefusedError,
    SchemaMismatchError,
    UnreachableError,
)


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=60,
    )


class Fake:
    """Stands in for MilvusClient: each call takes the next answer, an exception is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = iter(answers)
        self.timeouts: list[float] = []

    def query(self, *, collection_name: str, timeout: float) -> object:
        self.timeouts.append(timeout)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def connect(
    *answers: object, uri: str = "http://milvus:19530", token: str = "", timeout: float = 5
) -> Client:
    return Client(uri, token=token, client=Fake(*answers), timeout=timeout)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Time that passes in `time.sleep` alone; the pauses."""
    pauses: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", pauses.append)
    monkeypatch.setattr(client_module.time, "monotonic", lambda: sum(pauses))
    return pauses


@pytest.mark.parametrize("code", [2, 101, 103, 503])
def test_waits_while_the_server_is_starting(clock: list[float], code: int) -> None:
    client = connect(MilvusException(code, "soon"), MilvusException(code, "soon"), "rows")
    assert client.call("query", collection_name="n") == "rows"
    assert clock == [0.1, 0.2]
    assert client._client.timeouts == pytest.approx([5, 4.9, 4.7])


def test_waits_no_longer_than_the_limit(clock: list[float]) -> None:
    client = connect(*[MilvusException(101, "collection not loaded")] * 99)
    with pytest.raises(UnreachableError, match=r"did not serve query n within 5 s .*open it again"):
        client.call("query", collection_name="n")
    assert sum(clock) <= 5


def test_does_not_repeat_what_was_refused(clock: list[float]) -> None:
    client = connect(MilvusException(65535, "bad expression"), "rows")
    with pytest.raises(RefusedError, match="refused query n: bad expression"):
        client.call("query", collection_name="n")
    assert clock == []


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (MilvusException(100, "can't find"), CollectionMissingError),
        (MilvusException(1, "[query] Retry timeout: 5s, message=proxy TaskCondition"), UnreachableError),
        (MilvusException(client_module.grpc.StatusCode.UNAVAILABLE, "gone"), UnreachableError),
    ],
)
def test_failures_have_names(failure: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="http://milvus:19530"):
        connect(failure).call("query", collection_name="n")


@pytest.mark.parametrize(
    ("failure", "expected", "way_out"),
    [
        (MilvusException(100, "can't find"), CollectionMissingError, "was it dropped"),
        (MilvusException(800, "database not found[database=x]"), RefusedError, "give another db_name"),
        (MilvusException(1, "database 'x' does not exist"), RefusedError, "give another db_name"),
        (MilvusException(1, "[Errno 28] No space left on device"), RefusedError, "make room on its disk"),
        (MilvusException(9, "Retry timeout: 5s, disk quota exceeded"), RefusedError, "raise its quota"),
        (
            DataNotMatchException(1, "missed a field `added`"),
            SchemaMismatchError,
            "'n' was altered .*open it",
        ),
    ],
)
def test_failures_say_what_to_do(failure: Exception, expected: type[Exception], way_out: str) -> None:
    with pytest.raises(expected, match=way_out):
        connect(failure).call("query", collection_name="n")


def test_a_hidden_refusal_of_the_token_is_found() -> None:
    class Refusal(client_module.grpc.RpcError):
        def code(self) -> object:
            return client_module.grpc.StatusCode.UNAUTHENTICATED

        def details(self) -> str:
            return "auth check failure"

    failure = MilvusException(2, "Fail connecting to server")
    failure.__cause__ = Refusal()
    for error in (failure, Refusal()):
        with pytest.raises(AccessDeniedError, match="check token, user and database"):
            connect(error).call("query", collection_name="n")


def test_secrets_are_never_shown() -> None:
    failure = MilvusException(9, "user ada with hunter2 and token ada:hunter2 or pass99word")
    client = connect(failure, uri="https://bob:pass99word@milvus:19530/db", token="ada:hunter2")
    with pytest.raises(RefusedError) as caught:
        client.call("query", collection_name="n")
    shown = f"{caught.value} {caught.value.__cause__} {client!r} {client.uri}"
    assert "hunter2" not in shown
    assert "pass99word" not in shown
    assert client.uri == "https://milvus:19530/db"
    assert caught.value.__suppress_context__


def test_a_closed_connection_says_so() -> None:
    client = connect("rows")
    client.close()
    with pytest.raises(UnreachableError, match="was closed"):
        client.call("query", collection_name="n")


def test_nobody_at_the_address() -> None:
    with pytest.raises(UnreachableError, match=r"cannot connect to Milvus at http://127\.0\.0\.1:9: check"):
        Client("http://ada:hunter2@127.0.0.1:9", timeout=2)


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file.db").touch()
    for path, complaint in [
        (tmp_path / "file.db", "is a file"),
        (tmp_path / "photos", r"neither a path ending in \.db nor an address"),
        (tmp_path / "file.db" / "sub.db", "cannot make .*: Not a directory"),
    ]:
        with pytest.raises(UnreachableError, match=complaint):
            Client(path)
    with pytest.raises(UnreachableError, match=r"there is no .*new\.db: index photos into it first"):
        Client(tmp_path / "new.db", must_exist=True)
    assert not (tmp_path / "new.db").exists()


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "photos.db"
    client = Client(path)
    assert client.lite
    assert client.call("list_collections") == []
    client.close()
    assert path.is_dir()


HOLD = """
    import sys
    from connector.client import Client
    client = Client(sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_path_serves_one_process_and_is_free_after_the_last_close(tmp_path: Path) -> None:
    path = str(tmp_path / "photos.db")
    first, second = Client(path), Client(path)
    blocked = run(HOLD, path)
    assert "is in use by another process" in blocked.stderr

    first.close()
    assert second.call("list_collections") == []
    second.close()
    second.close()
    assert run(HOLD, path).stdout == "open\n"


def test_a_path_that_others_of_this_process_opened_stays_open(tmp_path: Path) -> None:
    path = str(tmp_path / "photos.db")
    theirs = client_module.MilvusClient(path, timeout=5)
    Client(path).close()
    assert theirs.list_collections(timeout=5) == []
    theirs.close()


def test_starting_failing_and_ending_print_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.db").mkdir()
    (tmp_path / "bad.db" / "collections").touch()
    talk = run(
        """
        import sys
        from connector.client import Client
        from connector.errors import ConnectorError, UnreachableError
        client = Client(sys.argv[1])
        for collection in ("none", "a b"):
            try:
                client.call("query", collection_name=collection, filter="x > 1")
            except ConnectorError:
                pass
        try:
            Client(sys.argv[2])
        except UnreachableError as error:
            assert "bad.db cannot be opened: check that it can be written and is" in str(error), error
        """,
        str(tmp_path / "photos.db"),
        str(tmp_path / "bad.db"),
    )
    assert (talk.returncode, talk.stdout, talk.stderr) == (0, "", "")


def test_milvus_uri_of_the_environment_may_be_a_path() -> None:
    talk = run("import os, connector.client; print(os.environ['MILVUS_URI'])", MILVUS_URI="photos.db")
    assert (talk.stdout, talk.stderr) == ("photos.db\n", "")


def test_loggers_keep_the_level_that_a_program_chose() -> None:
    code = """
        import logging
        logging.getLogger("milvus_lite").setLevel("DEBUG")
        import pymilvus
        {set}
        import connector.client
        print(logging.getLogger("pymilvus").level, logging.getLogger("milvus_lite").level)
    """
    assert run(code.format(set="")).stdout == "50 10\n"
    assert run(code.format(set="logging.getLogger('pymilvus').setLevel('INFO')")).stdout == "20 10\n"


def test_an_unfinished_creation_on_lite_is_cleared(tmp_path: Path) -> None:
    client = Client(tmp_path / "photos.db")
    collections = tmp_path / "photos.db" / "collections"
    for name in ("cut", "whole"):
        (collections / name).mkdir()
    (collections / "whole" / "schema.json").touch()
    for name in ("cut", "whole", "never"):
        client.forget_unfinished(name)
    client.close()
    assert sorted(folder.name for folder in collections.iterdir()) == ["whole"]


def test_what_this_process_did_not_write_lately_is_read_at_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At Session, a process that wrote nothing is given less than there is by a server that restarts."""
    now = 1000.0
    monkeypatch.setattr(client_module.time, "monotonic", lambda: now)
    with Client(tmp_path / "photos.db") as writer, Client(tmp_path / "photos.db") as reader:
        writer.call("create_collection", collection_name="one", dimension=2)
        assert reader.at_level("Session", "one") == "Bounded"
        writer.call("upsert", collection_name="one", data=[{"id": 1, "vector": [1.0, 0.0]}])
        now += 59
        assert reader.at_level("Session", "one") == "Session"
        assert reader.at_level("Session", "another") == "Bounded"
        assert reader.at_level("Strong", "another") == "Strong"
        now += 2
        assert reader.at_level("Session", "one") == "Bounded"
        writer.call("delete", collection_name="one", ids=[1])
        assert reader.at_level("Session", "one") == "Session"
