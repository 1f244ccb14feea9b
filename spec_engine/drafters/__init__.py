"""The drafters by name.

Job: the registry, which of them a preset can run, building one, what their models need, how many tokens each drafts at
most.
Non-job: the contract (``base.py``) and the drafters themselves, one file each.
"""

from collections.abc import Callable

from spec_engine.config import NEED_MODEL, DraftConfig, DrafterKind, Preset
from spec_engine.drafters import blend, eagle3, lm, longspec, lookup, mtp, none
from spec_engine.drafters.base import Drafter, DrafterContext
from spec_engine.drafters.eagle_files import head_need
from spec_engine.drafters.longspec import longspec_need
from spec_engine.drafters.mtp import mtp_need
from spec_engine.errors import RequestError
from spec_engine.model.memory import MemoryNeed, allocating, model_need
from spec_engine.model.target import Target

DRAFTERS: dict[DrafterKind, Callable[[DrafterContext], Drafter]] = {
    "none": none.build,
    "lookup": lookup.build,
    "lm": lm.build,
    "eagle3": eagle3.build,
    "longspec": longspec.build,
    "mtp": mtp.build,
    "blend": blend.build,
}


def available_drafters(preset: Preset) -> tuple[DrafterKind, ...]:
    """The kinds that this preset can run: those without a model, and with one the kind that it is, also blended."""
    draft = preset.draft
    usable = (draft.model_kind, "blend") if draft.model is not None else ()
    return tuple(kind for kind in DRAFTERS if kind not in NEED_MODEL or kind in usable)


def draft_need(preset: Preset, device: str) -> MemoryNeed:
    """What ``draft.model`` needs beside the target."""
    draft = preset.draft
    assert draft.model is not None, "asked for a model that the preset does not name"
    if draft.model_kind == "eagle3":
        return head_need(preset, device)
    if draft.model_kind == "longspec":
        return longspec_need(preset, device)
    if draft.model_kind == "mtp":
        return mtp_need(preset, device)
    return model_need(preset, draft.model, device)


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


def build_drafter(
    preset: Preset, kind: DrafterKind, target: Target, special_ids: frozenset[int] = frozenset()
) -> Drafter:
    """A drafter of this kind for the target; `special_ids` are tokens that are not text."""
    check_kind(preset, kind)
    with allocating(preset.name):
        return DRAFTERS[kind](DrafterContext(preset, target, str(target.device), special_ids))


def check_kind(preset: Preset, kind: DrafterKind) -> None:
    """Raise `RequestError` for a drafter that the preset has no model for."""
    if kind in available_drafters(preset):
        return
    draft = preset.draft
    has = (
        "names no draft model"
        if draft.model is None
        else f"has '{draft.model.id}', {_SORTS[draft.model_kind]}, to draft"
    )
    raise RequestError(
        f"The preset '{preset.name}' {has}, so the drafter '{kind}' cannot run. Use 'lookup' or 'none', or choose a "
        f"preset with draft.kind = '{kind}' and a [draft.model]."
    )


_SORTS = {
    "lm": "a language model",
    "eagle3": "an EAGLE head",
    "longspec": "a LongSpec head",
    "mtp": "a multi-token prediction head",
}
