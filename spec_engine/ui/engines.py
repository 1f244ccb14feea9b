"""What the page needs of an engine, and where it gets one.

Job: the two protocols that tests stand in for, and the loader of real engines.
Non-job: when to load (`models`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from spec_engine.cache.store import PrefixStore
from spec_engine.chat.answering import AnsweringEngine
from spec_engine.config import DrafterKind, Preset
from spec_engine.engine import Engine
from spec_engine.loading import Room, load_engine
from spec_engine.model.memory import MemoryUse
from spec_engine.model.watch import LoadWatch


class PageEngine(AnsweringEngine, Protocol):
    """What the page needs of an engine."""

    @property
    def memory(self) -> MemoryUse:
        """The memory that it takes."""

    def with_drafter(self, kind: DrafterKind, *, use_retrieval: bool | None = None) -> "PageEngine":
        """The same target with another drafter, with or without retrieval if that is said."""

    def logits_after(self, token_ids: Sequence[int]) -> list[float]:
        """The target's logits behind some tokens."""

    def close(self) -> None:
        """Give the memory back."""


class EngineLoader(Protocol):
    """Loads the engine of a preset; tells the watch how far it is, and frees the room if it needs it."""

    def __call__(self, preset: Preset, watch: LoadWatch, room: Room, /) -> PageEngine: ...


@dataclass(frozen=True, slots=True)
class EngineSource:
    """Loads engines for the page."""

    device: str = "auto"
    store: PrefixStore | None = None  # where what was read is kept

    def __call__(self, preset: Preset, watch: LoadWatch, room: Room, /) -> Engine:
        """The engine of a preset. Raises `ModelError`."""
        engine = load_engine(preset, device=self.device, watch=watch, room=room).telling_where_it_looks()
        return engine if self.store is None else engine.keeping_prefixes(self.store)
