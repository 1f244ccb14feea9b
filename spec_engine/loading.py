"""Building an engine from a preset.

Job: `load_engine`: what is needed, whether it fits, downloads, and putting the models together.
Non-job: reading one model (`model.load`), drafters (`drafters`), decoding (`engine`).
"""

from typing import Protocol

from spec_engine.config import NEED_MODEL, DrafterKind, Preset
from spec_engine.drafters import build_drafter, check_kind, draft_need, max_draft_nodes
from spec_engine.engine import Engine, EngineConfig
from spec_engine.model.fused import warm_up
from spec_engine.model.load import fetch, load_target, load_tokenizer
from spec_engine.model.memory import allocating, check_memory, fits, model_need, pick_chunk
from spec_engine.model.products import READY_ROWS
from spec_engine.model.target import Target
from spec_engine.model.watch import LoadProgress, LoadWatch, watching


class Room(Protocol):
    """Memory that could be freed for the models of a load, say that of an engine in use."""

    @property
    def num_bytes(self) -> int:
        """How much it is."""

    def free(self) -> None:
        """Free it."""


def load_engine(
    preset: Preset,
    *,
    drafter: DrafterKind | None = None,
    device: str = "auto",
    adaptive: bool = True,
    watch: LoadWatch | None = None,
    room: Room | None = None,
) -> Engine:
    """Load the preset's models and put them together; what is not on this machine is downloaded first.

    `drafter` replaces the preset's kind; `adaptive` is `EngineConfig.adaptive`. `watch` is told what happens and may
    end it, and `room` is freed once everything is here if the models do not fit beside it. Raises `ModelError` kinds
    when a model cannot be loaded, and `RequestError` for a drafter that the preset cannot run.
    """
    watch = watch or LoadWatch()
    kind = drafter or preset.draft.kind
    check_kind(preset, kind)
    draft = preset.draft.model if kind in NEED_MODEL else None
    with watching(watch):
        watch.tell(LoadProgress(f"Loading {preset.target.id}"))
        tokenizer = load_tokenizer(preset, preset.target)
        needs = [(preset.target.id, model_need(preset, preset.target, device))]
        if draft is not None:
            needs.append((draft.id, draft_need(preset, device)))
        check_memory(preset, needs, device, room.num_bytes if room else 0)
        fetch(preset, preset.target, weights=True)
        if draft is not None:
            fetch(preset, draft, weights=True, has_tokenizer=preset.draft.model_kind == "lm")
        if room is not None and not fits(needs, device):
            room.free()
        model = load_target(preset, preset.target, device=device)
        watch.tell(LoadProgress(f"Making {preset.target.id} ready"))
        with allocating(preset.name):
            chunk = pick_chunk(preset, device)
            target = Target(model, preset.context_length, chunk, preset.graph_memory << 20, may_join=True)
        if draft is not None:
            watch.tell(LoadProgress(f"Loading {draft.id}"))
        config = EngineConfig(max_draft_nodes(kind, preset.draft), preset.draft.retrieval, adaptive, chunk, preset)
        warm_up(target.weights[1], READY_ROWS, target.capacity)
        drafter_of_kind = build_drafter(preset, kind, target, tokenizer.special_token_ids)
        return Engine(target, drafter_of_kind, tokenizer, config)
