"""Readers of evaluation data sets: photos with the truth about which of them belong together."""

from landbridge.datasets.dataset import Box, Dataset, DatasetError
from landbridge.datasets.load import load_dataset
from ranking.metrics import Truth

__all__ = ["Box", "Dataset", "DatasetError", "Truth", "load_dataset"]
