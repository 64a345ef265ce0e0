"""What a service takes on at once, so that its memory stays bounded and its answers prompt."""

from __future__ import annotations

from dataclasses import dataclass, fields

from extractor.photo import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Limits of one worker; what is over them is refused, never dropped.

    Attributes:
        photo_bytes: of one photo's file.
        pixels: of one photo, by its header; at most `MAX_PIXELS`.
        photos: in one request.
        request_bytes: of one request's body.
        waiting_photos: taken on and not answered, of all requests; above it comes 429.
        waiting_bytes: of the bodies of all requests being received or waiting; above it comes 429.
        batch: photos extracted together; None for 32 on an accelerator, and for 1 on a CPU, on each core.
        batch_seconds: that an incomplete batch waits for photos that are being received or decoded.
        receive_seconds: that a client may take to send its request.

    Raises:
        ValueError: a limit is not above zero, or a request within the others could never be taken on.
    """

    photo_bytes: int = 32 << 20
    pixels: int = 100_000_000
    photos: int = 32
    request_bytes: int = 128 << 20
    waiting_photos: int = 128
    waiting_bytes: int = 512 << 20
    batch: int | None = None
    batch_seconds: float = 0.005
    receive_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value <= 0:
                raise ValueError(f"{field.name} must be above zero, got {value}")
        if self.pixels > MAX_PIXELS:
            raise ValueError(f"pixels must be at most {MAX_PIXELS}, got {self.pixels}")
        for part, whole in (
            ("photos", "waiting_photos"),
            ("photo_bytes", "request_bytes"),
            ("request_bytes", "waiting_bytes"),
        ):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(
                    f"{part} ({getattr(self, part)}) must not exceed {whole} ({getattr(self, whole)}): "
                    "no such request could ever be taken on"
                )
