"""The matcher that was published with DELF, for comparison."""

from ranking.verification.reference.verifier import ReferenceVerifier

__all__ = ["ReferenceVerifier"]
