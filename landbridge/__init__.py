"""Landbridge: find every photo of a landmark in Milvus, also over bridging photos.

import landbridge

with landbridge.Index("photos.db") as index:
    index.add("photos/")
    for hit in index.search("query.jpg").hits:
        print(hit.image_id, hit.how, hit.score)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connector.errors import ConnectorError as ConnectorError
    from extractor.photo import PhotoError as PhotoError
    from landbridge.attached import AttachedPhotos as AttachedPhotos
    from landbridge.attached import LocalAdded as LocalAdded
    from landbridge.attached import attach as attach
    from landbridge.datasets import Dataset as Dataset
    from landbridge.datasets import load_dataset as load_dataset
    from landbridge.evaluation import Evaluation as Evaluation
    from landbridge.evaluation import evaluate as evaluate
    from landbridge.index import Index as Index
    from landbridge.ingest import Added as Added
    from landbridge.recognition import Recognition as Recognition
    from landbridge.recognition import recognise as recognise
    from landbridge.reindexing import Reindexed as Reindexed
    from landbridge.reindexing import reindex as reindex
    from landbridge.report import write_report as write_report
    from landbridge.results import AttachedRanking as AttachedRanking
    from landbridge.results import Hit as Hit
    from landbridge.results import Link as Link
    from landbridge.results import Ranking as Ranking
    from landbridge.retrieval import METHODS as METHODS
    from landbridge.sample_world import SampleWorld as SampleWorld
    from landbridge.submission import write_recognition as write_recognition
    from landbridge.submission import write_submission as write_submission

_HOMES = {
    "Added": "landbridge.ingest",
    "AttachedPhotos": "landbridge.attached",
    "AttachedRanking": "landbridge.results",
    "ConnectorError": "connector.errors",
    "Dataset": "landbridge.datasets",
    "Evaluation": "landbridge.evaluation",
    "Hit": "landbridge.results",
    "Index": "landbridge.index",
    "Link": "landbridge.results",
    "LocalAdded": "landbridge.attached",
    "METHODS": "landbridge.retrieval",
    "PhotoError": "extractor.photo",
    "Ranking": "landbridge.results",
    "Recognition": "landbridge.recognition",
    "Reindexed": "landbridge.reindexing",
    "SampleWorld": "landbridge.sample_world",
    "attach": "landbridge.attached",
    "evaluate": "landbridge.evaluation",
    "load_dataset": "landbridge.datasets",
    "recognise": "landbridge.recognition",
    "reindex": "landbridge.reindexing",
    "write_recognition": "landbridge.submission",
    "write_report": "landbridge.report",
    "write_submission": "landbridge.submission",
}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: most need neither torch nor Milvus."""
    if name not in _HOMES:
        raise AttributeError(f"module 'landbridge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
