from __future__ import annotations

import asyncio
from typing import Any

import pytest

from extractor.service.metrics import REQUEST_SECONDS, REQUESTS, Counted, exposition


async def fails(*_: Any) -> None:
    raise RuntimeError


async def answers(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize(
    ("app", "path", "label", "status"),
    [(answers, "/a", "/a", "204"), (answers, "/b/c?d", "other", "204"), (fails, "/a", "/a", "500")],
)
def test_requests_are_counted_by_known_paths_and_by_status(
    app: Any, path: str, label: str, status: str
) -> None:
    counter = REQUESTS.labels(label, status)
    before = counter._value.get(), REQUEST_SECONDS.labels(label)._sum.get()

    async def send(_: Any) -> None:
        await asyncio.sleep(0.02)

    try:
        asyncio.run(Counted(app, frozenset({"/a"}))({"type": "http", "path": path}, None, send))
    except RuntimeError:
        assert app is fails
    assert counter._value.get() == before[0] + 1
    assert app is fails or REQUEST_SECONDS.labels(label)._sum.get() >= before[1] + 0.04
    line = f'landbridge_requests_total{{path="{label}",status="{status}"}} {before[0] + 1}'
    assert line in exposition().decode()
