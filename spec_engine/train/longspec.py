"""Training a LongSpec head for a target (arXiv 2502.17421, sections 3.1 to 3.3).

Job: `LongSpecObjective`: next-token loss with the target frozen, anchor-offset indices, noisy training.
Non-job: the loop (head_loop.py), the head (drafters/longspec_head.py).

*Anchor-offset indices* give the first four tokens their own positions and move all others by one random offset, so a
head trained on short rows meets the positions of long texts, and the target, which saw its sinks at 0 to 3, hardly
minds. *Noisy training* lets a token see the target's rows only up to j tokens before it, j from 1 to 4: in a tree the
rows of a node's ancestors are missing too.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from spec_engine.drafters.longspec import target_rotary
from spec_engine.drafters.longspec_head import HeadConfig, LongSpecHead, save_head
from spec_engine.model.hf_cache import cache_argument
from spec_engine.model.target import Target

NUM_ANCHORS = 4
MAX_NOISE = 4  # the largest j
_ROOM = 3 / 8  # of a batch's tokens, how many predictions are learned at most
_PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class LongSpecTraining:
    """The parts of the method that can be left out, and the positions that offsets reach."""

    has_anchor_offset: bool = True
    is_noisy: bool = True
    window: int = 512
    max_position: int = 16384


class LongSpecObjective:
    """A fresh head for `model`, and its loss. Raises `UnsupportedModel` for a target without a rotary embedding."""

    def __init__(self, model: PreTrainedModel, training: LongSpecTraining, seed: int = 0) -> None:
        target = Target(model, _PROBE_TOKENS, _PROBE_TOKENS)
        keys, _ = target.last_rows()
        config = model.config.get_text_config(decoder=True)
        sizes = HeadConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=keys.shape[1],
            head_size=keys.shape[3],
            eps=getattr(config, "rms_norm_eps", 1e-6),
            window=training.window,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = LongSpecHead(sizes, target_rotary(target))
        self._head = head.to(model.device)
        self._model = model.requires_grad_(False)
        self._training = training
        self._layer = target.runner.model_layers[target.last_layer]
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def head(self) -> LongSpecHead:
        """The head in float32."""
        return self._head

    def loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted cross-entropy of a sample of the predictions that count."""
        offset = int(torch.randint(1, MAX_NOISE + 1, (1,), generator=self._generator)) if self._training.is_noisy else 1
        rows, labels, learned = self._sample(ids, weights)
        with torch.autocast(ids.device.type, torch.bfloat16):
            hidden = self._hidden(ids, self._positions(ids.shape[1]), (offset,))[0]
            logits = self._model.get_output_embeddings()(hidden.flatten(0, 1)[rows])
        entropy = F.cross_entropy(logits.float(), labels, reduction="none")
        return (entropy * learned).sum() / learned.sum().clamp_min(1e-9)

    def acceptance(self, ids: Tensor, weights: Tensor) -> list[float]:
        """Depth d is a prediction at offset d: the head sees the target up to d tokens before."""
        rows, labels, learned = self._sample(ids, (weights >= 1).float())
        offsets = tuple(range(1, MAX_NOISE + 1))
        with torch.autocast(ids.device.type, torch.bfloat16):
            found = self._hidden(ids, torch.arange(ids.shape[1]), offsets)
            chosen = [self._model.get_output_embeddings()(hidden.flatten(0, 1)[rows]).argmax(-1) for hidden in found]
        counted = learned > 0
        return [float((token[counted] == labels[counted]).float().mean()) for token in chosen]

    def save(self, folder: Path) -> None:
        """In bfloat16, as the built-in models are kept."""
        head = LongSpecHead(self._head.config, self._head.rotary)
        head.load_state_dict(self._head.state_dict())
        save_head(head.to(torch.bfloat16), folder)

    def _hidden(self, ids: Tensor, positions: Tensor, offsets: tuple[int, ...]) -> list[Tensor]:
        """What the output layer reads [B, L, H], once for each offset; the target runs once and learns nothing."""
        cache = DynamicCache()
        with torch.no_grad():
            where = positions.to(ids.device)[None].expand(ids.shape[0], -1)
            kept = {cache_argument(self._model): cache}
            self._model(ids, position_ids=where, use_cache=True, logits_to_keep=1, **kept)
            embeds = self._model.get_input_embeddings()(ids)
        layer = cache.layers[self._layer]
        assert isinstance(layer, DynamicLayer), "a layer that sees everything keeps everything"
        assert layer.keys is not None, "the target just ran"
        assert layer.values is not None, "the target just ran"
        return [self._head(embeds, positions, layer.keys, layer.values, offset) for offset in offsets]

    def _positions(self, length: int) -> Tensor:
        """int64 [L]: ordinary ones, or all but the anchors moved by one random offset."""
        positions = torch.arange(length)
        most = self._training.max_position - length
        if self._training.has_anchor_offset and most > 0:
            positions[NUM_ANCHORS:] += int(torch.randint(0, most + 1, (1,), generator=self._generator))
        return positions

    def _sample(self, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the flattened batch, their next tokens, and their weights: as many predictions as there is room."""
        batch, length = ids.shape
        following = weights[:, 1:].reshape(-1)
        room = min(int(batch * length * _ROOM), len(following))
        noise = torch.rand(following.shape, generator=self._generator).to(ids.device)
        chosen = torch.where(following > 0, following + noise, -1.0).topk(room).indices  # weight first, then chance
        rows = chosen // (length - 1) * length + chosen % (length - 1)
        return rows, ids[:, 1:].reshape(-1)[chosen], following[chosen]
