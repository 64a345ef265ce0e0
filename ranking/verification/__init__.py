"""Geometric verification: one contract (`Verifier`), one folder per backend."""

from ranking.verification.backends import BACKENDS, create_verifier
from ranking.verification.batched import BatchedVerifier
from ranking.verification.verification import Verification, Verifier

__all__ = ["BACKENDS", "BatchedVerifier", "Verification", "Verifier", "create_verifier"]
