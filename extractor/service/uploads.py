"""Reading requests: a photo as the body, a multipart form of files, or JSON with base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from extractor.service.batches import Upload
from extractor.service.limits import Limits

_LONGEST_ID = 1024


class JsonPhoto(BaseModel):
    """A photo in a JSON request."""

    model_config = ConfigDict(extra="forbid")

    id: str
    image: Annotated[str, Field(description="The file's content in base64.")]
    width: PositiveInt | None = None
    height: PositiveInt | None = None


class JsonPhotos(BaseModel):
    """A JSON request."""

    model_config = ConfigDict(extra="forbid")

    photos: Annotated[list[JsonPhoto], Field(min_length=1)]


BODIES = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "description": "One file per photo; its name is the photo's id.",
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        },
        "application/json": {"schema": JsonPhotos.model_json_schema()},
    },
}
"""The request bodies, for OpenAPI."""


def most_bytes(request: Request, limits: Limits) -> int:
    """Bytes that the body may have: what its header says, or what the limits allow where that says nothing.

    Raises:
        HTTPException: 413, there are too many.
    """
    length = request.headers.get("content-length")
    most = limits.photo_bytes if is_one_photo(request) else limits.request_bytes
    if length is None:
        return most
    if int(length) > most:
        raise _too_large(most)
    return int(length)


async def read_uploads(
    request: Request, limits: Limits, most: int, image_id: str, size: tuple[int, int] | None
) -> list[Upload]:
    """The photos of a request.

    Args:
        request: its body not read yet.
        limits: of photos and seconds.
        most: bytes that the body may have.
        image_id: names the photo that is the body.
        size: of its original, where it was reduced before it was sent.

    Raises:
        HTTPException: 408 it took too long, 413 too much, 422 it is not what it says.
    """
    try:
        async with asyncio.timeout(limits.receive_seconds):
            body = _limited(request, most)
            match _kind(request):
                case "multipart/form-data":
                    uploads = await _from_form(request, body, limits)
                case "application/json":
                    uploads = await asyncio.to_thread(_from_json, b"".join([part async for part in body]))
                case _:
                    uploads = [Upload(image_id, b"".join([part async for part in body]), size)]
    except TimeoutError:
        raise HTTPException(
            408, f"the request took more than {limits.receive_seconds:.0f} s to come"
        ) from None
    if len(uploads) > limits.photos:
        raise HTTPException(413, f"{len(uploads)} photos, and a request may have {limits.photos}")
    for upload in uploads:
        if not 0 < len(upload.image_id) <= _LONGEST_ID or "\0" in upload.image_id:
            raise HTTPException(422, f"an id must have 1 to {_LONGEST_ID} characters, none of them zero")
    if len({upload.image_id for upload in uploads}) < len(uploads):
        raise HTTPException(422, "two photos of a request have the same id")
    return uploads


def is_one_photo(request: Request) -> bool:
    """Whether the body is a photo, whose failure is that of the request."""
    return _kind(request) not in ("application/json", "multipart/form-data")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(most: int) -> HTTPException:
    # The rest of the body is not waited for.
    return HTTPException(413, f"a body of more than {most / 2**20:.3g} MiB", {"Connection": "close"})


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > most:
            raise _too_large(most)
        yield chunk


async def _from_form(request: Request, body: AsyncGenerator[bytes, None], limits: Limits) -> list[Upload]:
    parser = MultiPartParser(request.headers, body, max_files=limits.photos, max_fields=1)
    parser.spool_max_size = limits.request_bytes  # in memory, for which room is kept
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith("Too many") else 422
        raise HTTPException(status, f"the form: {error.message}") from None
    uploads = []
    for field, file in form.multi_items():
        if not isinstance(file, UploadFile):
            raise HTTPException(422, f"the field {field!r} is no file")
        uploads.append(Upload(file.filename or field, await file.read()))
    if not uploads:
        raise HTTPException(422, "the form has no files")
    return uploads


def _from_json(body: bytes) -> list[Upload]:
    try:
        photos = JsonPhotos.model_validate_json(body).photos
    except ValidationError as error:
        raise HTTPException(422, error.errors(include_url=False, include_input=False)) from None
    uploads = []
    for photo in photos:
        try:
            data = base64.b64decode(photo.image, validate=True)
        except binascii.Error as error:
            raise HTTPException(422, f"the image of {photo.id!r} is not base64: {error}") from None
        size = (photo.width, photo.height) if photo.width and photo.height else None
        uploads.append(Upload(photo.id, data, size))
    return uploads
