"""Threads that run torch's operators alone."""

import torch

from turbomim.pipeline.system.threads import serial_pool


def test_serial_pool_leaves_the_caller_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with serial_pool(2, "test") as pool:
            inside = {pool.submit(torch.get_num_threads).result() for _ in range(8)}
        with_own = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert inside == {1}
    assert with_own == 3
