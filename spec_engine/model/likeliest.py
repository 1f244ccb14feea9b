"""The few likeliest tokens of each row of a draft's logits: by torch, or by our kernels where they are faster.

Job: `by_torch`; `likeliest_for`, which of both a draft on this device uses.
Non-job: the kernels (`likeliest_kernels`), what is done with the tokens (`tree`, `tree_tensors`).
"""

import importlib
import importlib.util

import torch
from torch import Tensor

from spec_engine.model.contest import Timer, gpu_timer
from spec_engine.tree import Likeliest

_TRIED = (16, 32000, 16)  # rows, columns and how many of them: a level of EAGLE-3's head for Llama 3.1 8B
_TOLERANCE = 1e-4  # of a log-probability: sums of exponentials are made in another order
_TIMES = 2  # that ours have to win


def by_torch(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities float32 [n, num] of the `num` likeliest columns of `logits` [n, V], the likeliest first, and
    the columns, int64 [n, num]. Which ones of equal columns is torch's choice."""
    values, columns = logits.float().log_softmax(dim=-1).topk(num, dim=-1)
    return values, columns


def likeliest_for(device: torch.device) -> Likeliest:
    """What a draft on `device` uses. Not for captures, as it looks at results."""
    if importlib.util.find_spec("triton") is None:
        return by_torch
    kernels = importlib.import_module("spec_engine.model.likeliest_kernels")  # cannot be imported without Triton
    return faster(kernels.likeliest, device, gpu_timer(device)) if kernels.can_run(device) else by_torch


@torch.inference_mode()
def faster(ours: Likeliest, device: torch.device, timer: Timer | None) -> Likeliest:
    """`ours` where it gives what torch gives, and wins by the seconds of `timer`, if there is one; else `by_torch`.

    Two launches against torch's 14 or so leave little doubt, so one size stands for all.
    """
    num_rows, num_columns, num = _TRIED
    logits = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(0)).to(device, torch.float16)
    try:
        found, columns = ours(logits, num)
        want, _ = by_torch(logits, num)
        there = logits.float().log_softmax(dim=-1).gather(1, columns)
        if not all(torch.allclose(values, want, rtol=0.0, atol=_TOLERANCE) for values in (found, there)):
            return by_torch
        has_won = timer is None or all(
            timer(lambda: ours(logits, num)) < timer(lambda: by_torch(logits, num)) for _ in range(_TIMES)
        )
    except RuntimeError:  # `CannotLaunch`, or what CUDA says
        return by_torch
    return ours if has_won else by_torch
