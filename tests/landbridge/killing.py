"""Kills this process with SIGKILL at one of the steps that write."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

Watched = Callable[[str, Callable[..., Any]], Callable[..., Any]]


def watch(steps: Mapping[str, Any], moment: str, nth: int) -> tuple[Counter[str], Watched]:
    """Count the steps, and end this process before or after the nth of one kind.

    Args:
        steps: the owner of each step, by its name there.
        moment: `before NAME` or `after NAME`.
        nth: from 1.

    Returns:
        How often each moment came, and what makes a further step one of them.
    """
    times: Counter[str] = Counter()

    def note(step: str) -> None:
        times[step] += 1
        if (step, times[step]) == (moment, nth):
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            note(f"before {name}")
            result = step(*arguments)
            note(f"after {name}")
            return result

        return call

    for name, owner in steps.items():
        setattr(owner, name, watched(name, getattr(owner, name)))
    return times, watched
