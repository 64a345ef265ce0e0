"""Features of others' extractors, from and to their files: DELF, DELG, hloc and .npz."""

from extractor.files.read import FeatureFiles, read_features
from extractor.files.stored_features import FeatureFileError, StoredFeatures
from extractor.files.write import write_features

__all__ = ["FeatureFileError", "FeatureFiles", "StoredFeatures", "read_features", "write_features"]
