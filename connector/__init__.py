"""Descriptors in and out of Milvus: schemas, collections, ingest, search."""
