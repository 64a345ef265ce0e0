"""The verification backends by name."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

from ranking.verification.verification import Verifier

_CLASSES = {
    "batched": ("ranking.verification.batched", "BatchedVerifier"),
    "opencv": ("ranking.verification.opencv", "OpenCVVerifier"),
    "reference": ("ranking.verification.reference", "ReferenceVerifier"),
}
BACKENDS = tuple(_CLASSES)


def create_verifier(name: str = "batched", **options: Any) -> Verifier:
    """A verification backend by its name; its library is imported only now.

    Args:
        name: `batched` (the default: ours), `opencv` (USAC) or `reference` (the DELF matcher).
        options: the attributes of the backend's class.

    Raises:
        ValueError: no backend has the name, or it has no such option; the message lists what there is.
        ImportError: the backend's library is not installed; the message says how to get it.
    """
    if name not in _CLASSES:
        raise ValueError(f"no verification backend {name!r}; there are {', '.join(BACKENDS)}")
    module, attribute = _CLASSES[name]
    backend = getattr(import_module(module), attribute)
    known = [field.name for field in fields(backend)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    verifier: Verifier = backend(**options)
    return verifier
