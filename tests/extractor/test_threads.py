from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from extractor.threads import available_cores, one_torch_thread


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


def test_cores() -> None:
    assert available_cores() >= 1
