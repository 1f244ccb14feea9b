"""The drafters by name.

Job: the registry, which of them a preset can run, what their models need, how many tokens each drafts at most.
Non-job: the contract (``base.py``) and the drafters themselves, one file each.
"""

from collections.abc import Callable

from spec_engine.config import MODEL_KINDS, DraftConfig, DrafterKind, Preset
from spec_engine.drafters import eagle3, lm, lookup, none
from spec_engine.drafters.base import Drafter, DrafterContext
from spec_engine.drafters.eagle_files import head_need
from spec_engine.model.memory import MemoryNeed, model_need

DRAFTERS: dict[DrafterKind, Callable[[DrafterContext], Drafter]] = {
    "none": none.build,
    "lookup": lookup.build,
    "lm": lm.build,
    "eagle3": eagle3.build,
}


def available_drafters(preset: Preset) -> tuple[DrafterKind, ...]:
    """The kinds that this preset can run.

    A draft model is of one sort: that of ``draft.kind``, or a language model where ``draft.kind`` needs none.
    """
    draft = preset.draft
    sort: DrafterKind = draft.kind if draft.kind in MODEL_KINDS else "lm"
    return tuple(kind for kind in DRAFTERS if kind not in MODEL_KINDS or (kind == sort and draft.model is not None))


def draft_need(preset: Preset, kind: DrafterKind, device: str) -> MemoryNeed:
    """What ``draft.model`` needs when a drafter of this kind, one of those that load it, runs it."""
    assert preset.draft.model is not None, "asked for a model that the preset does not name"
    return head_need(preset, device) if kind == "eagle3" else model_need(preset, preset.draft.model, device)


def max_draft_nodes(kind: DrafterKind, config: DraftConfig) -> int:
    """The most nodes that a drafter of this kind proposes in one step."""
    if kind == "none":
        return 0
    if kind == "lookup":
        return config.lookup.num_draft
    if config.tree.policy == "chain":
        return min(config.tree.num_nodes, config.tree.max_depth)
    return config.tree.num_nodes
