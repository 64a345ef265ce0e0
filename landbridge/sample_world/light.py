"""The light of a photo: sun, sky, lamps, and how the camera exposed it, all in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Radiance = tuple[float, float, float]

LIGHTS = ("day", "overcast", "dusk", "night")


@dataclass(frozen=True)
class Light:
    """Light and exposure.

    Attributes:
        name: one of `LIGHTS`.
        sun: unit vector towards the sun or moon.
        sunlight: what a face turned to the sun receives.
        skylight: what every face receives.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon.
        floodlight: what the foot of the building receives from lamps on the ground.
        lit: share of the windows with light behind them.
        clouds: 0 (clear) to 1 (covered).
        haze: share of the light lost to haze per metre.
        exposure: stops above a balanced exposure.
        cast: gain of red, green and blue.
    """

    name: str
    sun: tuple[float, float, float]
    sunlight: Radiance
    skylight: Radiance
    zenith: Radiance
    horizon: Radiance
    floodlight: Radiance
    lit: float
    clouds: float
    haze: float
    exposure: float
    cast: Radiance

    @classmethod
    def random(cls, rng: np.random.Generator, name: str) -> Light:
        """Draw a light of the given name, one of `LIGHTS`."""
        azimuth = rng.uniform(0, 2 * np.pi)
        low, high = {"day": (28, 62), "overcast": (30, 60), "dusk": (4, 16), "night": (30, 60)}[name]
        elevation = np.radians(rng.uniform(low, high))
        sun = (
            float(np.cos(elevation) * np.cos(azimuth)),
            float(np.cos(elevation) * np.sin(azimuth)),
            float(np.sin(elevation)),
        )
        warm = rng.uniform(0, 1)
        sunlight, skylight, zenith, horizon = {
            "day": ((1.25, 1.14, 0.97), (0.30, 0.345, 0.42), (0.10, 0.24, 0.55), (0.48, 0.60, 0.74)),
            "overcast": ((0.10, 0.10, 0.10), (0.56, 0.58, 0.60), (0.42, 0.45, 0.50), (0.62, 0.64, 0.66)),
            "dusk": (
                (1.00, 0.58, 0.28),
                (0.22, 0.21, 0.27),
                (0.10, 0.13, 0.30),
                (0.80, 0.40 + 0.1 * warm, 0.22),
            ),
            "night": ((0.02, 0.03, 0.05), (0.045, 0.05, 0.08), (0.006, 0.010, 0.030), (0.03, 0.03, 0.05)),
        }[name]
        night = name == "night"
        return cls(
            name=name,
            sun=sun,
            sunlight=sunlight,
            skylight=skylight,
            zenith=zenith,
            horizon=horizon,
            floodlight=(0.62, 0.45 + 0.08 * warm, 0.22 + 0.16 * warm) if night else (0.0, 0.0, 0.0),
            lit={"day": 0.0, "overcast": 0.04, "dusk": 0.25, "night": 0.4}[name],
            clouds=float(rng.uniform(0.85, 1.0) if name == "overcast" else rng.uniform(0.0, 0.7)),
            haze=float(rng.uniform(0.0002, 0.0016)),
            exposure=float(np.clip(rng.normal(0, 0.35), -0.8, 0.7)),
            cast=_gain(rng),
        )


def _gain(rng: np.random.Generator) -> Radiance:
    red, green, blue = (1 + 0.06 * rng.standard_normal(3)).clip(0.85, 1.15).tolist()
    return red, green, blue
