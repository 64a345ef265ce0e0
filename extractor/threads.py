"""One thread per photo: models run on one thread each, and photos run beside one another.

PyTorch's threads within an operation wait for one another: where cores are shared they cost more than they
give, and their number can change the last bits of a result. One thread per photo has neither fault.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


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


_limit: int | None = None


def limit_cores(count: int) -> None:
    """Let this process, one of several of a machine, use no more than so many cores."""
    global _limit
    _limit = count


def available_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if _limit is None else min(cores, _limit)


def in_threads(
    work: Callable[[S], R], items: Iterable[S], ahead: int | None = None, workers: int | None = None
) -> Iterator[R]:
    """What `work` makes of each item, in order, on all cores.

    Args:
        work: may run in several threads at once.
        items: taken only a little ahead of what is yielded.
        ahead: how many are worked on, or done and waiting; two per thread by default.
        workers: threads; one per core by default.
    """
    workers = workers or available_cores()
    most = 2 * workers if ahead is None else ahead
    pool = ThreadPoolExecutor(workers, thread_name_prefix="extract")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
