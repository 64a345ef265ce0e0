"""A world of landmarks that the project renders itself, with its truth, for the demo and the tests."""

from .world import Photo, SampleWorld

__all__ = ["Photo", "SampleWorld"]
