"""Ranks of the positives in a ranking, with the junk taken out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Id = TypeVar("Id", bound=Hashable)


def positive_ranks(
    ranking: Sequence[Id] | NDArray[Any], positives: AbstractSet[Id], junk: AbstractSet[Id] = frozenset()
) -> NDArray[np.int64]:
    """Find where the positives stand once the junk is out of the way.

    Junk is neither right nor wrong: every junk id is removed and whatever follows moves up by one. Only the
    first occurrence of a positive counts; a repeat keeps its place and is a wrong result. An id that is in
    both sets is a positive.

    Args:
        ranking: ids, best first, as a sequence or a one-dimensional array; may be incomplete or empty.
        positives: ids of the right results.
        junk: ids that do not count.

    Returns:
        int64 [found]: 0-based ranks of the positives that were retrieved, increasing.
    """
    ids = ranking.tolist() if isinstance(ranking, np.ndarray) else ranking
    judged = positives | junk
    ranks: list[int] = []
    found: set[Id] = set()
    removed = 0
    for place, item in [(place, item) for place, item in enumerate(ids) if item in judged]:
        if item not in positives:
            removed += 1
        elif item not in found:
            found.add(item)
            ranks.append(place - removed)
    return np.array(ranks, dtype=np.int64)
