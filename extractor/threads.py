"""One thread per photo: models run on one thread each, and photos run beside one another.

PyTorch's threads within an operation wait for one another: where cores are shared they cost more than they
give, and their number can change the last bits of a result. One thread per photo has neither fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let PyTorch use one thread for what the calling thread does inside; other threads are not affected."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
