"""The routes of the service."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from extractor.extractor import Extractor
from extractor.service import metrics
from extractor.service.batches import Batches, BusyError
from extractor.service.limits import Limits
from extractor.service.uploads import BODIES, is_one_photo, most_bytes, read_uploads
from extractor.service.wire import JSON, NPZ, Failure, to_json, to_npz

PATHS = frozenset({"/v1/extract", "/v1/extractor", "/v1/extractor/learnt", "/healthz", "/readyz", "/metrics"})

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Features of each photo, or the status and the reason why there are none.",
        "content": {JSON: {}, NPZ: {"schema": {"type": "string", "format": "binary"}}},
    },
    401: {"description": "The token is missing or wrong."},
    406: {"description": "No such answer can be given."},
    408: {"description": "The request took too long to come."},
    413: {"description": "Too many bytes, pixels or photos."},
    422: {"description": "The photo, or the request, cannot be read."},
    429: {"description": "As many photos are waiting as fit; the header Retry-After says for how long."},
    500: {"description": "The extractor failed on the photo."},
}


def create_app(
    extractor: Extractor,
    limits: Limits | None = None,
    *,
    token: str = "",
    device: str = "cpu",
    dtype: str = "float32",
) -> FastAPI:
    """The service around an extractor.

    Args:
        extractor: ready: on its device, and with nothing to learn.
        limits: what is taken on; the usual limits when not given.
        token: which everything but health must be asked with, as a bearer; none when empty.
        device: where the extractor is.
        dtype: in which it calculates.
    """
    limits = limits or Limits()
    batches = Batches(extractor, limits, device)
    learnt = extractor.learnt

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        metrics.WORKER_STARTS.inc()
        async with batches:
            yield

    def authorised(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        if token and not secrets.compare_digest(
            (given.credentials if given else "").encode(), token.encode()
        ):
            raise HTTPException(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(title="Landbridge extractor", version="1", lifespan=lifespan, redoc_url=None)
    app.add_middleware(metrics.Counted, paths=PATHS)
    guarded = [Depends(authorised)]

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> Response:
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(error.seconds)})

    @app.post(
        "/v1/extract",
        dependencies=guarded,
        responses=_ANSWERS,
        response_class=Response,
        openapi_extra={"requestBody": BODIES},
    )
    async def extract(
        request: Request,
        id: Annotated[str, Query(description="Of the photo that is the body.")] = "photo",  # noqa: A002
        width: Annotated[int | None, Query(gt=0)] = None,
        height: Annotated[int | None, Query(gt=0)] = None,
        dtype: Annotated[Literal["float32", "float16"], Query(description="Of descriptors.")] = "float32",
    ) -> Response:
        """Features of one photo (the body is its file) or several (a form of files, or JSON).

        Width and height of the original are for a photo that was reduced before it was sent: keypoints are
        in pixels of the original. The answer is JSON, or `.npz` where the header Accept asks for it.
        """
        media = _answer_media(request)
        most = most_bytes(request, limits)
        with batches.receiving(most):
            size = (width, height) if width and height else None
            uploads = await read_uploads(request, limits, most, id, size)
            answers = await batches.extract(uploads)
            if is_one_photo(request) and isinstance(answers[0], Failure):
                raise HTTPException(answers[0].status, answers[0].reason)
            write = to_npz if media == NPZ else to_json
            return Response(
                await asyncio.to_thread(write, answers, extractor.fingerprint, dtype), media_type=media
            )

    @app.get("/v1/extractor", dependencies=guarded)
    async def what() -> dict[str, Any]:
        """What the service extracts, and what it takes on."""
        return {
            "name": extractor.name,
            "fingerprint": extractor.fingerprint,
            "dimension": extractor.dimension,
            "local_dimension": extractor.local_dimension,
            "longest_side": extractor.longest_side,
            "learnt": learnt and {"bytes": len(learnt), "sha256": hashlib.sha256(learnt).hexdigest()},
            "device": device,
            "dtype": dtype,
            "at_once": batches.at_once,
            "limits": asdict(limits) | {"batch": batches.batch},
        }

    @app.get("/v1/extractor/learnt", dependencies=guarded, response_class=Response)
    async def what_was_learnt() -> Response:
        """What the extractor learnt, as it is stored with an index; 404 where it learns nothing."""
        if learnt is None:
            raise HTTPException(404, f"{extractor.name} has nothing to learn")
        return Response(learnt, media_type="application/octet-stream")

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """The worker answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "As many photos are waiting as fit."}})
    async def ready(response: Response) -> dict[str, Any]:
        """Whether a photo that came now would be taken on."""
        if batches.full:
            response.status_code = 503
        return {"waiting": batches.photos, "most": limits.waiting_photos}

    @app.get("/metrics", dependencies=guarded, response_class=Response)
    async def figures() -> Response:
        """What is counted, for Prometheus."""
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE_LATEST)

    return app


def _answer_media(request: Request) -> str:
    """The kind of answer that the header Accept asks for, JSON where it is all the same.

    Raises:
        HTTPException: 406, there is none such.
    """
    asked = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "*/*").split(",")]
    for one in asked:
        if one in (NPZ, "application/octet-stream"):
            return NPZ
        if one in (JSON, "application/*", "*/*", ""):
            return JSON
    raise HTTPException(406, f"answers are {JSON} or {NPZ}")
