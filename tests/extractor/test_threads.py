from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from extractor.threads import available_cores, in_threads, limit_cores, one_torch_thread


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyError), one_torch_thread():
            {}["missing"]
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool, one_torch_thread():
            pool.submit(torch.set_num_threads, 2).result()
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = available_cores()
    assert before >= 1
    monkeypatch.setattr("extractor.threads._limit", None)
    limit_cores(1)
    assert available_cores() == 1
    limit_cores(before + 1)
    assert available_cores() == before


def test_threads_answer_in_order_and_only_so_far_ahead() -> None:
    taken: list[int] = []
    release = Event()

    def source() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        if number == 0:
            release.wait(10)
        return number * number

    answers = in_threads(work, source(), ahead=5, workers=3)
    release.set()
    assert next(answers) == 0
    assert taken == [0, 1, 2, 3, 4]
    assert list(answers) == [number * number for number in range(1, 20)]
    assert list(in_threads(work, [])) == []
