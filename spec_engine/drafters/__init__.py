"""The drafters by name.

Job: the registry, which of them a preset can run, and how many tokens each drafts at most.
Non-job: the contract (``base.py``) and the drafters themselves, one file each.
"""

from collections.abc import Callable

from spec_engine.config import MODEL_DRAFTERS, DraftConfig, DrafterKind, Preset
from spec_engine.drafters import lm, longspec, lookup, none
from spec_engine.drafters.base import Drafter, DrafterContext

DRAFTERS: dict[DrafterKind, Callable[[DrafterContext], Drafter]] = {
    "none": none.build,
    "lookup": lookup.build,
    "lm": lm.build,
    "longspec": longspec.build,
}


def available_drafters(preset: Preset) -> tuple[DrafterKind, ...]:
    """The kinds that this preset can run. A draft model is of the kind that the preset names, or else for ``lm``."""
    draft = preset.draft
    fitting = draft.kind if draft.kind in MODEL_DRAFTERS else "lm"
    usable = (fitting,) if draft.model is not None else ()
    return tuple(kind for kind in DRAFTERS if kind not in MODEL_DRAFTERS or kind in usable)


def max_draft_nodes(kind: DrafterKind, config: DraftConfig) -> int:
    """The most nodes that a drafter of this kind proposes in one step."""
    if kind == "none":
        return 0
    if kind == "lookup":
        return config.lookup.num_draft
    if config.tree.policy == "chain":
        return min(config.tree.num_nodes, config.tree.max_depth)
    return config.tree.num_nodes
