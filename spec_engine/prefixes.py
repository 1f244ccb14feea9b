"""The document's keys and values as an asset: kept on disk, restored when the document comes back.

Job: `PrefixKeeper`: keep what target and drafter hold of a prompt's beginning, and restore it if it is right.
Non-job: files (`cache.store`), what to keep and when (`chat.session`).

A restored text is right when the target says the same about what follows it as it said when it was kept: its logits
behind the last token, from one pass over that token, are compared. So rows of other weights under the same name, which
no file name tells apart, are refused; damaged ones are already by their checksums.
"""

import json
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from spec_engine.cache.store import PrefixStore, StoredPrefix, TextMemory
from spec_engine.config import ModelRef, Preset, resolve_model
from spec_engine.drafters.base import Drafter
from spec_engine.model.target import NO_TAPS, Target
from spec_engine.tree import DraftTree

LEAST_TOKENS: Final = 512  # a shorter text is read again faster than anybody could tell
_LOGITS: Final = "logits"
_TOLERANCE: Final = {  # of the largest logit
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}


class PrefixKeeper:
    """What `target` and `drafter` of an engine, built from `preset`, have in `store`."""

    def __init__(self, store: PrefixStore, target: Target, drafter: Drafter, preset: Preset) -> None:
        self._store = store
        self._target = target
        self._owner = _owner(preset, preset.target, target)
        draft = preset.draft
        of_drafter = f"{self._owner} {json.dumps(_identity(preset, draft.model))} {draft.model_kind} {draft.retrieval}"
        self._memories = [(f"{of_drafter} {number}", memory) for number, memory in enumerate(drafter.memories)]

    def restore(self, prompt: Sequence[int], num_held: int) -> int:
        """Bring back the longest kept beginning of `prompt`, if that is worth it to a target that holds `num_held`
        tokens of it; how many tokens came from disk. The target holds those then, and no others."""
        if len(prompt) - num_held < LEAST_TOKENS:
            return 0
        stored = self._store.find(self._owner, prompt)
        if stored is None or stored.num_tokens - num_held < LEAST_TOKENS:
            return 0
        token_ids = prompt[: stored.num_tokens]
        if not self._restore_target(stored, token_ids):
            self._target.reset()
            return 0
        for owner, memory in self._memories:
            kept = self._store.find(owner, token_ids)
            if kept is not None and memory.rows(token_ids[: kept.num_tokens]) is None:
                _restore(self._store, kept, memory, token_ids[: kept.num_tokens])
        return stored.num_tokens

    def keep(self, token_ids: Sequence[int], label: str, cancelled: Callable[[], bool]) -> bool:
        """Keep the text `token_ids`, which the target has read; whether all of it is on disk then. Where so much was
        read behind it that a layer with a window has dropped rows that belong to it, it is not."""
        if len(token_ids) < LEAST_TOKENS:
            return False
        kept = self._store.find(self._owner, token_ids)
        if kept is None or kept.num_tokens < len(token_ids):
            if self._target.rows(token_ids) is None:
                return False
            self._target.reuse(token_ids)
            logits = self._logits(token_ids)
            rows = self._target.rows(token_ids)
            assert rows is not None, "one row was computed anew"
            if not self._store.save(self._owner, label, token_ids, {**rows, _LOGITS: logits}, cancelled):
                return False
        for owner, memory in self._memories:
            if (rows := memory.rows(token_ids)) is None or cancelled():
                return False
            if not self._store.save(owner, label, token_ids, rows, cancelled):
                return False
        return True

    def _restore_target(self, stored: StoredPrefix, token_ids: Sequence[int]) -> bool:
        """Fill the target's cache from a file; whether it is right."""
        logits = torch.empty(self._target.vocab_size)
        into = {**self._target.room(len(token_ids)), _LOGITS: logits}
        if not self._store.load(stored, into):
            return False
        self._target.filled(token_ids)
        off = float((self._logits(token_ids) - logits).abs().max())
        if off <= _TOLERANCE[self._target.dtype] * float(logits.abs().max()):
            return True
        self._store.refuse(stored)
        return False

    def _logits(self, token_ids: Sequence[int]) -> Tensor:
        """The target's float32 logits [V] behind the last of these tokens, whose row is computed anew."""
        self._target.truncate(len(token_ids) - 1)
        outputs = self._target.verify(DraftTree.root(token_ids[-1]), NO_TAPS)
        logits = outputs.logits[0].float().cpu()
        self._target.commit(outputs, [0])
        return logits


def _restore(store: PrefixStore, stored: StoredPrefix, memory: TextMemory, token_ids: Sequence[int]) -> None:
    """Fill a drafter's memory; a damaged file leaves it empty, and it reads by itself."""
    if store.load(stored, memory.room(len(token_ids))):
        memory.filled(token_ids)


def _owner(preset: Preset, ref: ModelRef, target: Target) -> str:
    """Whose keys and values: all that they depend on besides the tokens, as far as it has a name."""
    config = target.runner.config.to_dict()
    settings = {key: value for key, value in sorted(config.items()) if key not in ("_name_or_path", "dtype")}
    facts = [*_identity(preset, ref), str(target.dtype), f"slides: {target.slides}", settings]
    return json.dumps(facts, sort_keys=True, default=str)


def _identity(preset: Preset, ref: ModelRef | None) -> list[str]:
    """A model's name and form."""
    return [] if ref is None else [resolve_model(preset, ref), ref.revision or "", ref.dtype, ref.quantization]
