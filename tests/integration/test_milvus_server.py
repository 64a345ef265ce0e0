"""What only a server can do: refuse a token, lack a database, die and come back."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from connector.collection import Collection, Source
from connector.errors import AccessDeniedError, RefusedError, UnreachableError

pytestmark = pytest.mark.parametrize("deployment", ["server"], indirect=True)


def test_a_wrong_token_is_refused_and_not_shown(deployment, collection: Collection) -> None:
    address = deployment.uri.removeprefix("http://")
    for uri, token in [
        (deployment.uri, "root:hunter2"),
        (f"http://root:hunter2@{address}", ""),
        (deployment.uri, ""),
    ]:
        with pytest.raises(AccessDeniedError, match="check token, user and database") as caught:
            Collection.open(uri, token=token)
        assert "hunter2" not in str(caught.value)


def test_a_database_that_is_not_there(deployment, collection: Collection) -> None:
    with pytest.raises(RefusedError, match="database not found"):
        deployment.open(db_name="nowhere")


def test_a_server_that_is_killed_and_comes_back(deployment, own_standalone, photo) -> None:
    collection = dataclasses.replace(deployment, uri=own_standalone.uri).create()
    images = [photo(f"durable {i}", seed=i) for i in range(30)]
    records = collection.stage(images, [Source("p", 1, 1)] * 30)
    collection.publish(records, np.stack([image.global_descriptor for image in images]))
    count = len(collection)

    own_standalone.kill()
    with (
        server_timeout(collection, 1),
        pytest.raises(UnreachableError, match=r"cannot connect|did not answer"),
    ):
        len(collection)
    threading.Timer(1.0, own_standalone.start).start()
    with server_timeout(collection, 90):
        assert len(collection) == count  # waits until the server serves again
    assert set(records) <= set(collection.published())
    assert [image.image_id for image in collection.features([r.image_id for r in records])] == [
        image.image_id for image in images
    ]
    collection.close()


class server_timeout:  # noqa: N801
    def __init__(self, collection: Collection, seconds: float) -> None:
        self.client, self.seconds = collection._client, seconds

    def __enter__(self) -> None:
        self.client.timeout, self.seconds = self.seconds, self.client.timeout

    def __exit__(self, *error: object) -> None:
        self.client.timeout, self.seconds = self.seconds, self.client.timeout
