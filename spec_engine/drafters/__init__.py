"""The drafters by name.

Job: the registry, which of them a preset can run, and how many tokens each drafts at most.
Non-job: the contract (``base.py``) and the drafters themselves, one file each.
"""

from collections.abc import Callable

from spec_engine.config import NEED_MODEL, DraftConfig, DrafterKind, Preset
from spec_engine.drafters import blend, lm, longspec, lookup, none
from spec_engine.drafters.base import Drafter, DrafterContext

DRAFTERS: dict[DrafterKind, Callable[[DrafterContext], Drafter]] = {
    "none": none.build,
    "lookup": lookup.build,
    "lm": lm.build,
    "longspec": longspec.build,
    "blend": blend.build,
}


def available_drafters(preset: Preset) -> tuple[DrafterKind, ...]:
    """The kinds that this preset can run: those without a model, and with one the kind that it is, also blended."""
    draft = preset.draft
    usable = (draft.model_kind, "blend") if draft.model is not None else ()
    return tuple(kind for kind in DRAFTERS if kind not in NEED_MODEL or kind in usable)


def max_draft_nodes(kind: DrafterKind, config: DraftConfig) -> int:
    """The most nodes that a drafter of this kind proposes in one step."""
    if kind == "none":
        return 0
    if kind == "lookup":
        return config.lookup.num_draft
    if kind == "blend":
        return max(max_draft_nodes("lm", config), max_draft_nodes("lookup", config))
    if config.tree.policy == "chain":
        return min(config.tree.num_nodes, config.tree.max_depth)
    return config.tree.num_nodes
