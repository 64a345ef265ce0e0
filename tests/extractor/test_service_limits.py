from __future__ import annotations

import pytest

from extractor.photo import MAX_PIXELS
from extractor.service.limits import Limits


def test_the_usual_limits_hold_together() -> None:
    Limits()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"photos": 0}, "photos must be above zero, got 0"),
        ({"batch": -1}, "batch must be above zero, got -1"),
        ({"batch_seconds": 0.0}, "batch_seconds must be above zero"),
        ({"pixels": MAX_PIXELS + 1}, "pixels must be at most"),
        ({"photos": 200}, r"photos \(200\) must not exceed waiting_photos \(128\)"),
        ({"photo_bytes": 1 << 30}, "photo_bytes .* must not exceed request_bytes"),
        ({"request_bytes": 1 << 30}, "request_bytes .* must not exceed waiting_bytes"),
    ],
)
def test_limits_under_which_nothing_could_be_done(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**given)
