"""Between stored colour and light: sRGB to linear radiance, and radiance to a camera's photo."""

from __future__ import annotations

from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from .light import Light

_LINEAR = (((np.arange(256) / 255.0 + 0.055) / 1.055) ** 2.4).astype(np.float32)
_STEPS = 16384
_BRIGHTEST = 6.0
_EXPOSED = np.linspace(0, _BRIGHTEST, _STEPS)
_TONED = (_EXPOSED * (1 + _EXPOSED / 9) / (1 + 0.55 * _EXPOSED)).clip(0, 1)
_FILM = (255 * (1.055 * _TONED ** (1 / 2.4) - 0.055).clip(0, 1) + 0.5).astype(np.uint8)
"""The photo's value for every step of exposure: a soft shoulder, then the sRGB curve."""
_NORMAL = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)])


def linear(colour: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Linear values of sRGB colours of any shape."""
    return np.asarray(cv2.LUT(colour, _LINEAR), np.float32)


def develop(
    radiance: NDArray[np.float32], subject: NDArray[np.bool_], light: Light, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Expose, blur and digitise a picture.

    Args:
        radiance: float32 [H, W, 3], linear.
        subject: bool [H, W], what the exposure is mostly metered on.
        light: says how the exposure and the white balance are off.
        rng: source of lens blur, vignette and noise.

    Returns:
        The photo, uint8 [H, W, 3], sRGB.
    """
    height, width = subject.shape
    if light.lit:
        glow = cv2.resize(radiance, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        glow = cv2.GaussianBlur(np.maximum(glow - 0.5, 0), (0, 0), width / 90)
        radiance = radiance + 0.12 * cv2.resize(glow, (width, height))
    metered = np.mean(cv2.mean(radiance)[:3])
    if subject.any():
        metered = 0.35 * metered + 0.65 * np.mean(cv2.mean(radiance, subject.view(np.uint8))[:3])
    key = 0.12 if light.name == "night" else 0.29
    gain = key / max(metered, 1e-3) * 2**light.exposure * np.asarray(light.cast)
    sigma = rng.uniform(0.0, 0.7)
    if sigma > 0.3:
        radiance = np.asarray(cv2.GaussianBlur(radiance, (0, 0), sigma), np.float32)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = (1 - rng.uniform(0.02, 0.16) * (x * x + y * y))[..., None]
    exposed = radiance * (vignette * gain * ((_STEPS - 1) / _BRIGHTEST)).astype(np.float32)
    photo = _FILM[exposed.clip(0, _STEPS - 1, out=exposed).astype(np.uint16)]
    strength = rng.uniform(3, 7) if light.name == "night" else rng.uniform(0.8, 3)
    draws = np.frombuffer(rng.bytes(photo.size), np.uint8).reshape(photo.shape)
    noise = cv2.LUT(draws, np.round(strength * _NORMAL).astype(np.int16))
    return np.asarray(cv2.add(photo, noise, dtype=cv2.CV_8U), np.uint8)
