"""Pixels to descriptors: photos in, global and local features out."""

from extractor.features import ImageFeatures, LocalFeatures

__all__ = ["ImageFeatures", "LocalFeatures"]
