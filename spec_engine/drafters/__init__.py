"""The drafters by name.

Job: the registry, which of them a preset can run, and how many tokens each drafts at most.
Non-job: the contract (``base.py``) and the drafters themselves, one file each.
"""

from collections.abc import Callable

from spec_engine.config import DraftConfig, DrafterKind, Preset
from spec_engine.drafters import lm, lookup, none
from spec_engine.drafters.base import Drafter, DrafterContext

DRAFTERS: dict[DrafterKind, Callable[[DrafterContext], Drafter]] = {
    "none": none.build,
    "lookup": lookup.build,
    "lm": lm.build,
}


def available_drafters(preset: Preset) -> tuple[DrafterKind, ...]:
    """The kinds that this preset can run; ``lm`` needs a draft model."""
    return tuple(kind for kind in DRAFTERS if kind != "lm" or preset.draft.model is not None)


def max_draft_nodes(kind: DrafterKind, config: DraftConfig) -> int:
    """The most nodes that a drafter of this kind proposes in one step."""
    if kind == "none":
        return 0
    if kind == "lookup":
        return config.lookup.num_draft
    if config.tree.policy == "chain":
        return min(config.tree.num_nodes, config.tree.max_depth)
    return config.tree.num_nodes
