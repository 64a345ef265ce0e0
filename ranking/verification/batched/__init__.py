"""The default backend: exhaustive two-point hypotheses with local optimisation, compiled for the CPU."""

from ranking.verification.batched.verifier import BatchedVerifier

__all__ = ["BatchedVerifier"]
