"""Geometric verification: one contract (`Verifier`), one folder per backend."""

from ranking.verification.batched import BatchedVerifier
from ranking.verification.verification import Verification, Verifier

__all__ = ["BatchedVerifier", "Verification", "Verifier"]
