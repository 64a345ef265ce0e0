"""Candidates to rankings: matching, verification, query expansion, match graph, spanning tree, metrics."""
