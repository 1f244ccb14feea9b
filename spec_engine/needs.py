"""What a preset needs of a device's memory, part by part, and what would fit where it does not.

Job: `need_of`, from the models' configurations where they are on this machine, else from the preset's own figures; and
`alternatives`, the same preset with less.
Non-job: the arithmetic of one model (`model.memory`), refusing a load (`engine`), showing it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Final

from spec_engine.config import NEED_MODEL, DraftConfig, ModelRef, Preset, Quantization
from spec_engine.drafters import draft_need
from spec_engine.model.hub import as_it_is_here
from spec_engine.model.load import is_here, pick_device
from spec_engine.model.memory import model_need

_GB: Final = 1e9
_STEP: Final = 1024  # tokens; a shorter context is a multiple of it
_LEAST_CONTEXT: Final = 2048  # tokens; less is no document
_IN_4_BIT: Final = 0.4  # of the bytes of 16-bit weights at most; 0.35 to 0.39 for 4B to 14B, whose embeddings stay


@dataclass(frozen=True, slots=True)
class PresetNeed:
    """Bytes on the device, by part, for a context of `num_tokens`; `windows` of the cache do not depend on it."""

    weights: int
    cache: int
    draft: int
    working: int
    num_tokens: int
    windows: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.draft + self.working

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Each part with its name."""
        return (
            ("weights", self.weights),
            ("document and chat", self.cache),
            ("draft", self.draft),
            ("working memory", self.working),
        )


def is_downloaded(preset: Preset) -> bool:
    """Whether all files that the preset needs are on this machine."""
    return all(is_here(preset, ref, weights=True) for ref in _models(preset))


def need_of(preset: Preset, device: str = "auto") -> PresetNeed | None:
    """What a preset needs on a device; None when nothing is known. The hub is not asked.

    Raises `ModelError` for a device that is not there, or a model whose configuration cannot be used.
    """
    if all(is_here(preset, ref, weights=False) for ref in _models(preset)):
        with as_it_is_here():
            target = model_need(preset, preset.target, device)
            draft = draft_need(preset, device) if len(_models(preset)) > 1 else None
        used = draft.weights + draft.cache if draft else 0
        working = max(target.activations, draft.activations if draft else 0)
        return PresetNeed(target.weights, target.cache, used, working, preset.context_length, target.windows)
    stated = preset.memory
    if stated.total == 0:
        return None
    is_wide = pick_device(device).type == "cpu" and preset.target.dtype == "auto"  # float32 there
    factor = 2 * _GB if is_wide and preset.target.quantization == "none" else _GB
    return PresetNeed(
        round(stated.weights * factor),
        round(stated.cache * factor),
        round(stated.draft * factor),
        round(stated.working * factor),
        preset.context_length,
        round(stated.windows * factor),
    )


def alternatives(preset: Preset, need: PresetNeed, free: int) -> list[Preset]:
    """The preset with one thing less, each way that fits `free` bytes: no draft model, 4-bit weights, a shorter
    context; where none does, 4-bit weights with a shorter context. Titles say what is different."""
    found = list(_fitting(preset, need, free))
    if not found and preset.target.quantization == "none" and _can_quantize():
        smaller = replace(need, weights=round(need.weights * _IN_4_BIT), draft=0)
        found = list(_shorter(_quantized(_draftless(preset)), smaller, free))
    return found


def _fitting(preset: Preset, need: PresetNeed, free: int) -> Iterator[Preset]:
    if need.draft and need.total - need.draft <= free:
        yield _draftless(preset)
    saved = need.weights - round(need.weights * _IN_4_BIT)
    if preset.target.quantization == "none" and _can_quantize() and need.total - saved <= free:
        yield _quantized(preset)
    yield from _shorter(preset, need, free)


def _shorter(preset: Preset, need: PresetNeed, free: int) -> Iterator[Preset]:
    """With as long a context as fits, if that is any use."""
    by_length = need.cache - need.windows
    room = free - (need.total - by_length)
    num_tokens = int(room / (by_length / need.num_tokens)) // _STEP * _STEP if by_length else 0
    if num_tokens < _LEAST_CONTEXT:
        return
    if num_tokens >= preset.context_length:
        yield preset
        return
    yield replace(
        preset,
        title=f"{preset.title}, {num_tokens:,} tokens",
        context_length=num_tokens,
        reliable_length=min(preset.reliable_length, num_tokens),
    )


def _draftless(preset: Preset) -> Preset:
    """Copies are all that is drafted."""
    if preset.draft.kind not in NEED_MODEL:
        return preset
    draft = DraftConfig("lookup", retrieval=preset.draft.retrieval, lookup=preset.draft.lookup)
    return replace(preset, title=f"{preset.title}, without the draft model", draft=draft)


def _quantized(preset: Preset) -> Preset:
    kind: Quantization = "4bit"
    return replace(preset, title=f"{preset.title}, 4-bit weights", target=replace(preset.target, quantization=kind))


def _can_quantize() -> bool:
    return find_spec("bitsandbytes") is not None


def _models(preset: Preset) -> tuple[ModelRef, ...]:
    draft = preset.draft
    return (preset.target, draft.model) if draft.kind in NEED_MODEL and draft.model else (preset.target,)
