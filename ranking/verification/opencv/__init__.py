"""OpenCV's brute-force matcher and its USAC estimators."""

from ranking.verification.opencv.verifier import OpenCVVerifier

__all__ = ["OpenCVVerifier"]
