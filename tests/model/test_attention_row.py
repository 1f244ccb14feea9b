"""The attention row of a committed token."""

import pytest
import torch

from spec_engine.model import attention_row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_many_keys_are_multiplied_in_float32(dtype: torch.dtype) -> None:
    """In blocks where keys are narrow, the last of them shorter."""
    generator = torch.Generator().manual_seed(0)
    rows, keys = (torch.randn(2, number, 16, generator=generator).to(dtype) for number in (3, 2600))
    found = attention_row._products(rows, keys)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rows.double() @ keys.double().transpose(1, 2), atol=1e-5, rtol=1e-5)
