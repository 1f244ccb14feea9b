"""How long the chunks of a prompt may be."""

from dataclasses import replace

import pytest
import torch

from spec_engine.config import load_preset
from spec_engine.model import memory


@pytest.mark.parametrize(("free", "expected"), [(0, 512), (90 << 20, 1024), (1 << 30, 2048), (None, 512)])
def test_prompt_chunks_on_a_gpu_follow_the_free_memory(
    free: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model with layers that have a window, 2,048 tokens at most."""
    monkeypatch.setattr(memory, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    preset = load_preset("builtin")
    assert memory.pick_chunk(preset, "cuda") == expected
    assert memory.pick_chunk(replace(preset, prefill_chunk=300), "cuda") == 300


def test_prompt_chunks_on_a_cpu_are_short() -> None:
    assert memory.pick_chunk(load_preset("builtin"), "cpu") == 512
