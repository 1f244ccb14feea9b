"""A matrix of a draft in 8 bits, so that half as much is read.

Job: `Narrow`, and `narrowed`, which rounds a matrix.
Non-job: products with it (`streamed`), whether it is used (`contest`).

What a draft proposes is checked by the target, so how its numbers are rounded may cost accepted tokens and never
changes the text. Each column, one output, has a scale of its own: the largest of its numbers becomes 127. Of numbers
drawn from a normal distribution 0.7 % (256 numbers a column) to 0.9 % (4,096) are lost; bfloat16 loses 0.2 %.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 127
_LEAST = 1e-30  # the scale of a column of zeros
_OF_MEDIAN = 1.48  # the deviation of a normal distribution, in medians of its absolute numbers
_NUMBERS = 1 << 24  # that are rounded at once, as this takes memory


@dataclass(frozen=True, slots=True)
class Narrow:
    """`weight` int8 [in, out], stored column by column, and what each column is multiplied by, `scales` float32 [out].
    `noise` is the root mean square of what rounding takes from a number, as a share of its column's usual size, the
    median times 1.48: few large numbers, which make the steps large, do not hide it. The mean of all columns."""

    weight: Tensor
    scales: Tensor
    noise: float

    def widened(self, dtype: torch.dtype) -> Tensor:
        """[in, out], stored column by column, for products that have no form for 8 bits."""
        rows = self.weight.t()
        wide = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        return torch.mul(rows, self.scales.to(torch.promote_types(dtype, torch.float32))[:, None], out=wide).t()


def narrowed(weight: Tensor) -> Narrow:
    """`weight` [in, out] rounded to 8 bits, column by column."""
    rows = weight.detach().t()
    whole = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scales = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    noise = torch.zeros((), device=rows.device)
    num_columns = max(_NUMBERS // max(rows.shape[1], 1), 1)
    for start in range(0, len(rows), num_columns):
        part = rows[start : start + num_columns].float()
        scale = (part.abs().amax(1) / _MOST).clamp(min=_LEAST)
        whole[start : start + num_columns] = (part / scale[:, None]).round_().to(torch.int8)
        scales[start : start + num_columns] = scale
        usual = part.abs().median(1).values.clamp(min=_LEAST) * _OF_MEDIAN
        noise += (scale / 12**0.5 / usual).clamp(max=1).sum()
    return Narrow(whole.t(), scales, float(noise) / len(rows))
