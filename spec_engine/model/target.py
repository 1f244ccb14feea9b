"""The target: the model whose text is wanted, with its cache.

Job: read tokens in chunks, verify a draft tree in one pass, keep an accepted path, cut back; record what is tapped.
Non-job: choosing tokens, drafting, the loop.

Verification is hybrid tree attention (SpecExtend, arXiv 2505.20776, section 3.1; LongSpec, arXiv 2502.17421, section
3.3): the prefix unmasked, the tree under its ancestor mask, merged. The row for cross-model retrieval is computed at
commit from one query per head (`attention_row`), not from a second attention over all nodes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_engine.attention import Scoring
from spec_engine.cache.sliding import LEAST_SLACK
from spec_engine.cache.slots import SlotCache, num_shared, on_device
from spec_engine.config import MAX_DRAFT_NODES
from spec_engine.errors import ContextOverflow
from spec_engine.model.attention_row import attention_row
from spec_engine.model.fused import Fused, fused
from spec_engine.model.graphs import graphed, graphs_note
from spec_engine.model.hf_attention import Pass
from spec_engine.model.runner import Runner, check_context
from spec_engine.model.sizes import ModelSize, model_size
from spec_engine.tree import DraftTree

TREE_SLOTS = MAX_DRAFT_NODES + 1  # rows beyond the capacity, so that a tree fits behind a nearly full context


@dataclass(frozen=True, slots=True)
class Taps:
    """What a target pass must record. `features` are layers as `model.features` numbers them."""

    attention_row: bool = False  # the last committed node's attention, for retrieval
    features: tuple[int, ...] = ()


NO_TAPS = Taps()


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens that were committed, in order; the cache holds `num_done` tokens after them.

    `attention_row` [num_done] float32: mean over heads of the last committed token's attention in the last layer that
    sees everything. `features` [n, F] in the target's dtype: the tapped hidden states in the order of the taps. Each is
    None unless asked for. `is_prompt`: they were given. `depth`: of the tree run. `bonus`: what was chosen behind them.
    """

    token_ids: tuple[int, ...]
    num_done: int
    attention_row: Tensor | None = None
    features: Tensor | None = None
    is_prompt: bool = False
    depth: int | None = None
    bonus: int | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """A verified tree: `logits` [N, V] by node. Valid until the next call of the target."""

    tree: DraftTree
    logits: Tensor
    prefix_len: int
    tapped: tuple[Tensor, Scoring] | None  # query [1, Hq, N, D] of the tapped layer
    features: Tensor | None = None  # [N, F]


class Target:
    """`model` with room for `capacity` tokens, prompt and answer together; prefill in chunks of `prefill_chunk`.

    `graph_bytes` is what captured passes may take on a GPU; 0: none are captured. `may_join`: the model is nobody
    else's, so that weights may be joined in memory for a faster forward (`fused`), where its architecture has one.

    Raises `UnsupportedModel` for a model that cannot follow draft trees, with the reason.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        capacity: int,
        prefill_chunk: int,
        graph_bytes: int = 0,
        *,
        may_join: bool = False,
    ) -> None:
        self._runner = Runner(model)
        self._size = model_size(model) if may_join else None
        plain = fused(self._runner) if may_join else self._runner
        self._forward = graphed(self._runner, plain, graph_bytes)
        self.weights: tuple[object, ...] = (model, plain)  # what holds them
        check_context(self._runner, capacity)
        self._capacity = capacity
        self._prefill_chunk = prefill_chunk
        windows, slack = self._runner.layer_windows, max(LEAST_SLACK, prefill_chunk)
        self._slots = SlotCache(self._runner.shapes, capacity + TREE_SLOTS, windows, slack + TREE_SLOTS)
        self._cache = self._runner.bind(self._slots)
        self.slides = self._slots.num_sliding_slots < self._slots.num_slots  # some layers hold their newest rows alone
        self._token_ids: list[int] = []
        self._resident: list[int] = []  # tokens whose rows lie in memory: the committed ones, and some that were cut
        self._overwritten: list[int] = []  # of these, the ones from where the running pass writes
        full = [layer for layer, window in enumerate(windows) if window is None]
        self._tap_layer = full[-1] if full else len(windows) - 1

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model; ordinary calls on it keep working."""
        return self._runner.model

    @property
    def runner(self) -> Runner:
        """The model with what was found out about it."""
        return self._runner

    @property
    def last_layer(self) -> int:
        """The layer of `last_rows`, in the order of the cache's layers."""
        return self._tap_layer

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The committed tokens: what the cache holds."""
        return tuple(self._token_ids)

    @property
    def length(self) -> int:
        """Number of committed tokens."""
        return self._slots.length

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self._capacity

    @property
    def vocab_size(self) -> int:
        """Columns of the logits; token ids lie below."""
        return self._runner.vocab_size

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return self._runner.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        return self._runner.dtype

    @property
    def cache_bytes(self) -> int:
        """Size of the key/value memory."""
        return self._slots.num_bytes

    @cached_property
    def size(self) -> ModelSize:
        """How large the model is. Counted before its weights are joined, as they are not the module's afterwards."""
        return self._size or model_size(self.model)

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that a pass reads at most."""
        return self._prefill_chunk

    @property
    def is_joined(self) -> bool:
        """Whether passes run in fewer operations than transformers' modules take."""
        return isinstance(self.weights[1], Fused)

    @property
    def has_output(self) -> bool:
        """Whether the model names the layer that `output` is."""
        return self.model.get_output_embeddings() is not None

    def output(self, states: Tensor) -> Tensor:
        """What the output layer alone gives for normalised states [..., H]: logits [..., V], on its device."""
        plain = self.weights[1]
        if isinstance(plain, Fused):
            return plain.output(states.reshape(-1, states.shape[-1]).to(self.dtype)).view(*states.shape[:-1], -1)
        layer = self.model.get_output_embeddings()
        assert layer is not None, "asked for by a head that needs it"
        logits: Tensor = layer(states.to(layer.weight.device, layer.weight.dtype))
        return logits

    @property
    def passes_note(self) -> str:
        """Which passes were captured, or why none are, and who does the products of few rows, a sentence each."""
        products = self.weights[1].note if isinstance(self.weights[1], Fused) else ""
        return f"{graphs_note(self._forward, self._runner)} {products}".strip()

    def last_rows(self) -> tuple[Tensor, Tensor]:
        """Keys and values [1, Hk, length, D] of the committed tokens in the last layer that sees everything, in place.

        The last layer of all where every layer has a window.
        """
        return self._slots.view(self._tap_layer)

    def memory(self, layer: int) -> tuple[Tensor, Tensor]:
        """The memory [1, Hk, slots, D] of a layer of the cache, which begins with the row of token `first_row`; always
        the same."""
        return self._slots.memory(layer)

    def first_row(self, layer: int) -> int:
        """The token whose row is the first in a layer's memory; later ones follow in order."""
        return self._slots.first(layer)

    def prefill(self, token_ids: Sequence[int], taps: Taps = NO_TAPS) -> Iterator[Step]:
        """Append tokens to the cache, a chunk per pass; one step per chunk. Attention rows are for `verify` alone.

        Raises `ContextOverflow` before anything is read if they do not fit.
        """
        if self.length + len(token_ids) > self._capacity:
            raise ContextOverflow(
                f"{len(token_ids):,} tokens do not fit behind {self.length:,} in a context of {self._capacity:,}. "
                "Nothing was read. Shorten the text, or choose a preset with a longer context."
            )
        for start in range(0, len(token_ids), self._prefill_chunk):
            chunk = tuple(token_ids[start : start + self._prefill_chunk])
            prefix_len = self.length
            positions = torch.arange(prefix_len, prefix_len + len(chunk))
            current = Pass(self._runner.backend, prefix_len, is_causal=True)
            current.feature_layers = taps.features
            self._overwrite(len(chunk))
            self._forward.run(self._cache, current, chunk, positions, last=1)
            self._slots.advance(len(chunk))
            self._note(chunk, len(chunk))
            yield Step(chunk, self.length, features=current.features, is_prompt=True)

    def verify(self, tree: DraftTree, taps: Taps) -> Outputs:
        """One pass over all nodes of `tree`; the cache is unchanged until `commit`."""
        prefix_len = self.length
        if len(tree) > self._slots.num_slots - prefix_len:
            raise ContextOverflow(
                f"A tree of {len(tree)} nodes does not fit behind {prefix_len:,} tokens in a context of "
                f"{self._capacity:,}. Lower draft.tree.num_nodes, or choose a preset with a longer context."
            )
        if len(tree) == 1:
            current = Pass(self._runner.backend, prefix_len)
            positions = torch.tensor([prefix_len])
        else:
            offsets = torch.tensor(tree.depths)
            current = Pass(self._runner.backend, prefix_len, visible=tree.ancestor_mask(), offsets=offsets)
            positions = offsets + prefix_len
        if taps.attention_row:
            current.tap_layer = self._runner.model_layers[self._tap_layer]
        current.feature_layers = taps.features
        self._overwrite(len(tree))
        logits = self._forward.run(self._cache, current, tree.token_ids, positions)
        return Outputs(tree, logits, prefix_len, current.tapped, current.features)

    def commit(self, outputs: Outputs, path: Sequence[int], *, bonus: int | None = None, with_row: bool = True) -> Step:
        """Keep the nodes `path`, from the root down, of the tree just verified, and forget the others.

        `bonus`: see `Step`. `with_row`: compute the attention row, if the pass recorded what it takes.
        """
        assert outputs.prefix_len == self.length, "the cache moved on since this tree was verified"
        self._slots.gather(path)
        token_ids = tuple(outputs.tree.token_ids[node] for node in path)
        self._note(token_ids, len(outputs.tree))
        row = self._attention_row(outputs.tapped, path[-1]) if with_row and outputs.tapped is not None else None
        features = outputs.features
        if features is not None and len(path) < len(outputs.tree):
            features = features.index_select(0, on_device(path, features.device))
        return Step(token_ids, self.length, row, features, depth=outputs.tree.depth, bonus=bonus)

    def reuse(self, token_ids: Sequence[int], reusable: Callable[[Sequence[int]], int] = len) -> int:
        """Hold the longest prefix of `token_ids` that is in memory, nothing else, and return its length.

        Tokens that were cut count as long as nothing else was written over them. So after a shorter run over the same
        text, a plain one to compare with, an answer does not have to be read again. Of layers with a window the rows
        before that place may be gone; then it is an earlier place. `reusable` tells how many of so many tokens a
        drafter can go on from.
        """
        num_kept = self._reuse(token_ids)
        while (num_wanted := reusable(token_ids[:num_kept])) < num_kept:
            if (num_kept := self._reuse(token_ids[:num_wanted])) == num_wanted:
                break
        self._slots.remember(len(token_ids))  # answered once more, a prompt ends where it does
        return num_kept

    def _reuse(self, token_ids: Sequence[int]) -> int:
        """`reuse` without a drafter."""
        num_same, num_resident = num_shared(self._resident, token_ids), len(self._resident)
        num_kept = self._slots.reachable(num_same)
        self._slots.restore(num_kept)
        self._token_ids = self._resident[: self.length]
        self.truncate(num_kept)
        if num_same < num_resident:
            self._slots.remember(num_same)
        return num_kept

    def remember(self, num_tokens: int) -> None:
        """Many prompts will begin with the first `num_tokens` tokens: `reuse` should find them behind any text."""
        self._slots.remember(num_tokens, is_lasting=True)

    def rows(self, token_ids: Sequence[int]) -> Mapping[str, Tensor] | None:
        """What keys and values of the text's beginning `token_ids` are needed to go on from there, by name; None where
        they are not in memory."""
        is_held = self._resident[: len(token_ids)] == list(token_ids)
        return self._slots.rows(len(token_ids)) if is_held else None

    def room(self, num_tokens: int) -> Mapping[str, Tensor]:
        """Forget everything; the places of keys and values of `num_tokens` tokens, to be written to."""
        self.reset()
        return self._slots.room(num_tokens)

    def filled(self, token_ids: Sequence[int]) -> None:
        """What `room` gave was written to: these are the tokens."""
        self._slots.advance(len(token_ids))
        self._token_ids, self._resident = list(token_ids), list(token_ids)

    def truncate(self, num_tokens: int) -> None:
        """Let go of the tokens from `num_tokens` on, a few (else `reuse`), and of what an interrupted pass left."""
        if self._slots.truncate(num_tokens):
            del self._resident[num_tokens:]
        del self._token_ids[num_tokens:]

    def reset(self) -> None:
        """Forget everything."""
        self._slots.reset()
        self._token_ids.clear()
        self._resident.clear()

    def _overwrite(self, num_rows: int) -> None:
        """A pass is about to write `num_rows` rows behind the committed tokens."""
        have_moved = self._slots.reserve(max(num_rows, TREE_SLOTS))  # captured passes have columns for a whole tree
        self._overwritten = [] if have_moved else self._resident[self.length :]
        del self._resident[self.length :]

    def _note(self, token_ids: Sequence[int], num_rows: int) -> None:
        """Book committed tokens of a pass over `num_rows` rows; what it wrote once more as it was is still followed by
        what followed it before."""
        self._token_ids.extend(token_ids)
        self._resident.extend(token_ids)
        num_new = len(token_ids)
        if num_rows == num_new and self._overwritten[:num_new] == list(token_ids):
            self._resident.extend(self._overwritten[num_new:])
        self._overwritten = []

    def _attention_row(self, tapped: tuple[Tensor, Scoring], node: int) -> Tensor:
        """See `Step`."""
        keys, window = self.last_rows()[0], self._runner.layer_windows[self._tap_layer]
        return attention_row(tapped[0][0, :, node], keys[0], tapped[1], window)
