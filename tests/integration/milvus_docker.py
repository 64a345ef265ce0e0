"""Milvus 2.6 standalone in a container, its etcd and its files inside, for the third leg of the tests."""

from __future__ import annotations

import importlib.util
from types import TracebackType
from typing import Any, Self

IMAGE = "milvusdb/milvus:v2.6.16"
TOKEN = "root:Milvus"


class Container:
    """A server that asks for a token, while the context lasts."""

    def __init__(self) -> None:
        from testcontainers.community.milvus import MilvusContainer

        self._container: Any = (
            MilvusContainer(IMAGE)
            .with_env("DEPLOY_MODE", "STANDALONE")
            .with_env("COMMON_SECURITY_AUTHORIZATIONENABLED", "true")
            .with_kwargs(security_opt=["seccomp:unconfined"])  # as Milvus's own script for one container
        )

    @staticmethod
    def unavailable() -> str:
        """Why no container can be started here; empty when one can."""
        if importlib.util.find_spec("testcontainers") is None:
            return "no Milvus 2.6: it needs testcontainers: make test-docker installs it"
        from docker.errors import DockerException
        from testcontainers.core.docker_client import DockerClient

        try:
            DockerClient().client.ping()
        except DockerException as error:
            return f"no Milvus 2.6: no Docker engine can be reached: start one, or set DOCKER_HOST ({error})"
        return ""

    @property
    def uri(self) -> str:
        return str(self._container.get_connection_url())

    def __enter__(self) -> Self:
        self._container.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.stop()
