"""How many of the processor's threads are used.

Job: `spared`, which leaves some cores alone for a while.
Non-job: saying when that is better; whoever configures an engine knows.

torch shares each operator out among all cores and waits for the last part. Where another program needs a core now and
then, each operator waits for the part that has none: beside one busy program on two cores, the built-in target decodes
at 914 tokens/s with two threads and at 2,315 with one (AMD EPYC; alone at 3,292 and 1,875).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def spared(num_spared: int) -> Iterator[None]:
    """Until the block is left, so many of the machine's cores are left to other programs. No fewer threads are used
    than that takes, and one is in any case: where torch uses half of the logical cores, nothing changes."""
    usual = torch.get_num_threads()
    fewer = max(min(usual, num_cores() - num_spared), 1)
    if not num_spared or fewer == usual:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def num_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
