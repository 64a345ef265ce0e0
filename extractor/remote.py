"""An extractor behind a service: photos go there, and their features come back."""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import Photo, PhotoError, photo_bytes
from extractor.service.wire import NPZ, from_npz
from extractor.threads import in_threads

TOKEN_VARIABLE = "LANDBRIDGE_EXTRACTOR_TOKEN"
"""Environment variable of the bearer token, of the service as of its clients."""

_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
_FEWEST_IN_FLIGHT = 8
_FIRST_PATIENCE = 15.0
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 15.0


class ServiceError(ConnectionError):
    """An extractor service does not answer as it should; the message names it and the way out."""


class RemoteExtractor(Extractor):
    """The extractor of a service; features, fingerprint and what was learnt are those of the service's.

    The files of photos are sent as they are, so that the service reads the very pixels that an extractor on
    this machine would. A service that is busy (429), away (503) or out of reach is asked again: when it
    says, else less and less often.
    """

    def __init__(
        self, url: str, token: str = "", *, in_flight: int | None = None, patience: float = 300.0
    ) -> None:
        """Ask a service what it extracts.

        Args:
            url: of the service, as in `http://127.0.0.1:8420`.
            token: bearer token, where the service asks for one.
            in_flight: photos sent at once by `extract_many` and `extract_batch`; by default as many as keep
                the service busy.
            patience: seconds for which a photo is sent again before that is an error.

        Raises:
            ServiceError: there is no such service, or it refuses the token.
            ValueError: it is no URL.
        """
        self.url = url.rstrip("/")
        self.patience = patience
        try:
            scheme = httpx.URL(self.url).scheme
        except httpx.InvalidURL:
            scheme = ""
        if scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is no URL of an extractor service, such as http://127.0.0.1:8420")
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_TIMEOUT,
            limits=httpx.Limits(),
        )
        answer = self._ask("GET", "/v1/extractor", patience=min(patience, _FIRST_PATIENCE))
        try:
            about = answer.json()
            self.name = str(about["name"])
            self.fingerprint = str(about["fingerprint"])
            self.dimension = int(about["dimension"])
            self.local_dimension = int(about["local_dimension"])
            self.longest_side = int(about["longest_side"])
            self._learnt_digest = about["learnt"] and about["learnt"]["sha256"]
            self._most_bytes = int(about["limits"]["photo_bytes"])
            busy = min(max(int(about["at_once"]), _FEWEST_IN_FLIGHT), int(about["limits"]["waiting_photos"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(f"is no extractor service of this release ({error!r})") from error
        self.in_flight = in_flight or busy

    @cached_property
    def learnt(self) -> bytes | None:
        """What the service's extractor learnt; None when nothing.

        Raises:
            ServiceError: it cannot be had, or is not what the service said it was.
        """
        if self._learnt_digest is None:
            return None
        learnt = self._ask("GET", "/v1/extractor/learnt").content
        if hashlib.sha256(learnt).hexdigest() != self._learnt_digest:
            raise self._error("gives something else as learnt than when it was first asked: start again")
        return learnt

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo, which is sent losslessly, reduced to `longest_side`.

        Raises:
            ServiceError: the service does not answer, or cannot extract it.
        """
        buffer = io.BytesIO()
        Image.fromarray(photo.reduced(self.longest_side).pixels).save(buffer, "PNG", compress_level=1)
        width, height = photo.size
        features = self._features(image_id, Path(image_id), buffer.getvalue(), width=width, height=height)
        if isinstance(features, PhotoError):
            raise self._error(f"cannot extract {features}")
        return features

    def extract_batch(self, photos: Sequence[tuple[str, Photo]]) -> list[ImageFeatures]:
        """Features of photos already read, in order; the service makes its own batches."""
        return list(
            in_threads(lambda photo: self.extract(photo[1], photo[0]), photos, workers=self.in_flight)
        )

    def extract_many(self, photos: Iterable[tuple[str, Path]]) -> Iterator[ImageFeatures | PhotoError]:
        """Send the files of many photos, `in_flight` at a time; see `Extractor.extract_many`.

        Raises:
            ServiceError: the service does not answer, or failed on a photo.
        """
        return in_threads(lambda photo: self._extract_file(*photo), photos, workers=self.in_flight)

    def _extract_file(self, image_id: str, path: Path) -> ImageFeatures | PhotoError:
        try:
            if path.is_file() and path.stat().st_size > self._most_bytes:
                return PhotoError(
                    path,
                    f"{path.stat().st_size / 2**20:.3g} MiB, and {self.url} takes photos of at most "
                    f"{self._most_bytes / 2**20:.3g} MiB: start it with a higher --max-mib",
                )
            return self._features(image_id, path, photo_bytes(path))
        except PhotoError as error:
            return error

    def _features(
        self, image_id: str, path: Path, data: bytes, **parameters: int
    ) -> ImageFeatures | PhotoError:
        answer = self._ask(
            "POST",
            "/v1/extract",
            content=data,
            params=parameters,
            headers={"Accept": NPZ, "Content-Type": "application/octet-stream"},
            about=f" ({path})",
        )
        if answer.status_code != 200:
            return PhotoError(path, str(answer.json()["detail"]))
        try:
            (features,) = from_npz(answer.content)
        except ValueError as error:
            raise self._error(f"{error}") from error
        assert isinstance(features, ImageFeatures), "a photo that failed has a status of its own"
        if features.extractor != self.fingerprint:
            raise self._error(
                f"has become {features.extractor}, it was {self.fingerprint}: their features do not compare; "
                "start again with the extractor that is wanted"
            )
        return ImageFeatures(
            image_id, features.size, features.global_descriptor, features.local, self.fingerprint
        )

    def _ask(
        self, method: str, path: str, *, about: str = "", patience: float | None = None, **request: Any
    ) -> httpx.Response:
        """Send a request until it is answered; a photo that is refused (413, 422) is an answer too.

        Raises:
            ServiceError: patience ended, or the answer is an error that does not pass.
        """
        patience = self.patience if patience is None else patience
        ends = time.monotonic() + patience
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = self._client.request(method, path, **request)
            except httpx.TransportError as error:
                reason, told = f"cannot be reached ({str(error) or type(error).__name__})", 0.0
            else:
                if answer.status_code not in (429, 503):
                    return self._checked(answer, about)
                reason, told = f"is too busy ({answer.status_code})", _retry_after(answer)
            # A little later, by chance: clients that were refused together come back one by one.
            wait = (told or pause) * random.uniform(1, 1.25)
            if time.monotonic() + wait > ends:
                raise self._error(
                    f"{reason}, for {patience:.0f} s{about}: see that `landbridge serve` runs there "
                    "and that its address is right, or extract on this machine"
                )
            time.sleep(wait)
            if not told:
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _checked(self, answer: httpx.Response, about: str) -> httpx.Response:
        if answer.status_code == 200 or (about and answer.status_code in (413, 422)):
            return answer
        if answer.status_code == 401:
            raise self._error(f"refuses the token: set {TOKEN_VARIABLE} to that of the service")
        raise self._error(f"answers {answer.status_code}{about}: {answer.text[:200]}")

    def _error(self, reason: str) -> ServiceError:
        return ServiceError(f"the extractor service at {self.url} {reason}")


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the answer asks to wait."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
