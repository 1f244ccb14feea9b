"""What the page needs of an engine, and where it gets one.

Job: the two protocols that tests stand in for, and the loader of real engines.
Non-job: when to load (`workspace`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from spec_engine.chat.session import AnsweringEngine
from spec_engine.config import DrafterKind, Preset
from spec_engine.engine import Engine, load_engine


class PageEngine(AnsweringEngine, Protocol):
    """What the page needs of an engine."""

    def with_drafter(self, kind: DrafterKind, *, use_retrieval: bool | None = None) -> "PageEngine":
        """The same target with another drafter, with or without retrieval if that is said."""

    def logits_after(self, token_ids: Sequence[int]) -> list[float]:
        """The target's logits behind some tokens."""

    def close(self) -> None:
        """Give the memory back."""


class EngineLoader(Protocol):
    """Loads the engine of a preset; tells its progress in sentences."""

    def __call__(self, preset: Preset, on_progress: Callable[[str], None], /) -> PageEngine: ...


@dataclass(frozen=True, slots=True)
class EngineSource:
    """Loads engines for the page."""

    device: str = "auto"

    def __call__(self, preset: Preset, on_progress: Callable[[str], None], /) -> Engine:
        """The engine of a preset. Raises `ModelError`."""
        return load_engine(preset, device=self.device, on_progress=on_progress)
