"""Re-ranking experiments on features and match lists of one's own: files in, graph, rankings and tables out.

from extractor.files import read_features
from landbridge.experiments import build_graph

graph = build_graph(read_features("index.h5"), "graph", queries=read_features("queries.h5")).graph
table = graph.evaluate("gnd.json", ["global", "id-qe", "mmst-c"])
"""

from landbridge.experiments.build import Built, build_graph
from landbridge.experiments.lists import import_graph
from landbridge.experiments.named_graph import NamedGraph

__all__ = ["Built", "NamedGraph", "build_graph", "import_graph"]
