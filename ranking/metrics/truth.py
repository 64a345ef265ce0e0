"""What a query should find."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class Truth(Generic[Id]):
    """What a query should find.

    Attributes:
        positives: ids of the right results.
        junk: ids that are neither right nor wrong and are removed from every ranking.
    """

    positives: frozenset[Id]
    junk: frozenset[Id] = frozenset()
