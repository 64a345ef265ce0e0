"""Features of any number of photos to a folder: on all cores or GPUs of a machine, or on a Ray cluster."""

from extractor.batch.run import Extracted, extract_photos

__all__ = ["Extracted", "extract_photos"]
