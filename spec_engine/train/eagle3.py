"""Training an EAGLE-3 head for a target (arXiv 2503.01840, sections 3.1 and 3.2).

Job: `Eagle3Objective`: the target's own distribution is learned over several drafted steps, with the target frozen;
`unroll`: what a head gives while it drafts, for all rows of a batch at once.
Non-job: the loop (head_loop.py), the network (drafters/eagle_head.py), its files (drafters/eagle_files.py).

*Training-time test*: in step k a row takes what the head itself gave for it one step before as its feature, and the
token k further on. It sees what a draft of k + 1 tokens sees: the rows of the text up to its root, made of the target's
features, and its own row of every step since. So the head learns from the features that it will meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from spec_engine.drafters.eagle_files import HeadFiles, save_head
from spec_engine.drafters.eagle_head import EagleHead, HeadConfig, Projected, Rope
from spec_engine.errors import TrainingError, UnsupportedModel
from spec_engine.model.features import FeatureRecorder
from spec_engine.model.sizes import config_of_layer
from spec_engine.train.places import narrowed, sample_places

_QUERY_BLOCK = 512  # rows of a step whose scores are made at once
_FEWEST_USUAL = 7  # layers of a target from which on the usual three are in order


@dataclass(frozen=True, slots=True)
class Eagle3Training:
    """What can be chosen. `draft_vocab_size`: how many tokens the head can draft, None for all; the caller of
    `Eagle3Objective` says which. `sample_share`: of a batch's tokens, how many predictions are learned at most."""

    num_steps: int = 7
    decay: float = 0.8  # weight of a step's loss against the step before
    draft_vocab_size: int | None = None
    sample_share: float = 0.25
    rope_theta: float = 10000.0


def feature_layers(num_layers: int) -> tuple[int, ...]:
    """An early, a middle and a late layer as `model.features` numbers them: the usual ones where there are enough
    layers, else three distinct ones, or as many as there are."""
    if num_layers >= _FEWEST_USUAL:
        return (2, num_layers // 2, num_layers - 3)
    return (1, num_layers // 2, num_layers - 1) if num_layers > 3 else tuple(range(num_layers))


def unroll(head: EagleHead, embedded: Tensor, features: Tensor, num_steps: int) -> list[Tensor]:
    """The states of `num_steps` steps along the data; differentiable.

    `embedded` [B, L, H] of the tokens, `features` [B, L, H] of the same tokens, combined. Step k, counted from 0, gives
    [B, L - 1 - k, H]: its row t has token t + 1 + k and says what comes after it, k drafted tokens behind a root.
    """
    seen = _Unrolled()
    states, found = features, []
    for step in range(num_steps):
        num_rows = embedded.shape[1] - 1 - step
        positions = torch.arange(step, step + num_rows, device=embedded.device)
        states = head(embedded[:, step + 1 :], states[:, :num_rows], positions, seen.attend)
        found.append(states)
    return found


class Eagle3Objective:
    """A fresh head for `model`, and its loss.

    `target_ids` int64 [columns], ascending, are the tokens that it drafts, None for all; `trained_length` is the
    longest row in tokens, which its configuration will name. Raises `UnsupportedModel` for a target whose layers cannot
    be told apart, or whose embeddings are not as wide as its hidden states.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        training: Eagle3Training,
        target_ids: Tensor | None = None,
        trained_length: int = 2048,
        seed: int = 0,
    ) -> None:
        self._recorder = FeatureRecorder(model)
        self._layers = feature_layers(self._recorder.num_layers)
        self._embedding, self._output = _ends(model)
        config = _sizes(model, len(self._layers), len(self._output.weight), training)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = _TrainedHead(config, target_ids, len(self._output.weight))
        head.start_from(self._output)
        self._head = head.to(self._embedding.device)
        self._model = model.requires_grad_(False)
        self._training = training
        self._trained_length = trained_length
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def head(self) -> nn.Module:
        """The head in float32, with the tokens that it drafts, so that a saved state keeps them."""
        return self._head

    @property
    def network(self) -> EagleHead:
        """The head as it drafts."""
        return self._head.network

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the target that the head reads, as `model.features` numbers them."""
        return self._layers

    def loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Cross-entropy of the target's distribution and the head's, weighted, summed over the steps.

        A prediction counts where the target's likeliest token is one that the head can draft.
        """
        places, learned = self._sample(weights)
        with torch.autocast(ids.device.type, torch.bfloat16):
            states, wanted = self._run(ids, places)
            drafted = [self.network.logits(state).float() for state in states]
        chosen = self._head.columns[wanted.argmax(-1)]
        shares = self._head.reduce(wanted).softmax(-1)  # [n, columns]
        learned = torch.where(chosen >= 0, learned, 0.0)
        total = torch.zeros((), device=ids.device)
        for step, logits in enumerate(drafted):
            entropy = F.cross_entropy(logits, shares, reduction="none")
            total = total + self._training.decay**step * (entropy * learned).sum() / learned.sum().clamp(min=1e-6)
        return total

    def acceptance(self, ids: Tensor, weights: Tensor) -> list[float]:
        """Depth d is step d - 1: the head has gone on from its own states since d - 1 tokens, which are the data's."""
        places, counted = self._sample((weights >= 1).float())
        with torch.autocast(ids.device.type, torch.bfloat16):
            states, wanted = self._run(ids, places)
            columns = [self.network.logits(state).argmax(-1) for state in states]
        right = self._head.columns[wanted.argmax(-1)]
        return [float(((column == right) * counted).sum() / counted.sum().clamp(min=1.0)) for column in columns]

    def save(self, folder: Path) -> None:
        """In bfloat16, as published heads."""
        weights = {name: weight.bfloat16() for name, weight in self.network.state_dict().items()}
        files = HeadFiles(
            name=str(folder),
            config=self.network.config,
            weights=weights,
            target_ids=self._head.target_ids,
            layers=self._layers,
            trained_length=self._trained_length,
            vocab_size=len(self._head.columns),
        )
        save_head(files, folder, self._training.rope_theta)

    def _run(self, ids: Tensor, places: Tensor) -> tuple[list[Tensor], Tensor]:
        """For each step the states [n, H] that predict what follows `places`, and the target's logits [n, V] there."""
        features, wanted = self._read(ids, places)
        embedded = F.embedding(ids, self._embedding)  # plain rows, as the drafter looks them up
        combined = self.network.combine(features).float()  # what is added up keeps its precision
        unrolled = unroll(self.network, embedded, combined, self._training.num_steps)
        row, place = places // ids.shape[1], places % ids.shape[1]
        return [states[row, place - 1 - step] for step, states in enumerate(unrolled)], wanted

    @torch.no_grad()
    def _read(self, ids: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the target: features [B, L, F], and its logits [n, V] at these places."""
        with narrowed(self._output, places), self._recorder.recording(self._layers) as found:
            logits: Tensor = self._model(ids, use_cache=False).logits[0]
        return torch.cat([found[layer].to(ids.device) for layer in self._layers], dim=-1), logits.float()

    def _sample(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Places [n] that every step can predict from, and their weights [n]."""
        num_steps, length = self._training.num_steps, weights.shape[1]
        if length < num_steps + 2:
            raise TrainingError(
                f"Rows of {length} tokens are too short for {num_steps} steps: {num_steps + 2} are needed. Use longer "
                "rows."
            )
        return sample_places(weights, num_steps, self._training.sample_share, self._generator)


class _TrainedHead(nn.Module):
    """A network with the tokens that it drafts: `target_ids` int64 [columns] or None, and `columns` int64 [V], the way
    back, -1 for a token that is not drafted."""

    target_ids: Tensor | None
    columns: Tensor

    def __init__(self, config: HeadConfig, target_ids: Tensor | None, vocab_size: int) -> None:
        super().__init__()
        columns = torch.arange(vocab_size)
        if target_ids is not None:
            config = replace(config, num_columns=len(target_ids))
            columns = torch.full((vocab_size,), -1)
            columns[target_ids] = torch.arange(len(target_ids))
        self.network = EagleHead(config)
        self.register_buffer("target_ids", target_ids)
        self.register_buffer("columns", columns)

    def reduce(self, logits: Tensor) -> Tensor:
        """The columns [n, columns] of the target's logits [n, V] that the head has too."""
        return logits if self.target_ids is None else logits[:, self.target_ids]

    @torch.no_grad()
    def start_from(self, output: nn.Linear) -> None:
        """Begin with the target's output layer."""
        assert self.network.lm_head is not None, "an EAGLE-3 head has an output layer"
        weight = output.weight.detach().to(self.columns.device)
        self.network.lm_head.weight.copy_(weight if self.target_ids is None else weight[self.target_ids])


class _Unrolled:
    """Attention of a step: to the first step's rows up to one's own, and to one's own row of the steps since."""

    def __init__(self) -> None:
        self._rows: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by layer: keys, values [B, Hk, T, D] of each step

    def attend(self, layer: int, projected: Projected) -> Tensor:
        """See `eagle_head.Attend`."""
        q, k, v = projected.turned()
        rows = self._rows.setdefault(layer, [])
        rows.append((k, v))
        if len(rows) == 1:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        grouped = q.unflatten(1, (k.shape[1], -1)) * q.shape[-1] ** -0.5  # [B, Hk, G, T, D]
        blocks = [
            _attend_block(grouped, rows, start, min(start + _QUERY_BLOCK, q.shape[2]))
            for start in range(0, q.shape[2], _QUERY_BLOCK)
        ]
        return torch.cat(blocks, dim=3).flatten(1, 2)


def _attend_block(q: Tensor, rows: Sequence[tuple[Tensor, Tensor]], start: int, stop: int) -> Tensor:
    """What queries `start` to `stop` of `q` [B, Hk, G, T, D] see: [B, Hk, G, stop - start, D]."""
    (keys, values), later = rows[0], rows[1:]
    mine = q[:, :, :, start:stop]
    prefix = mine @ keys[:, :, None, :stop].transpose(-1, -2)  # [B, Hk, G, t, stop]
    hidden = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).triu(start + 1)
    own = [(mine * own_keys[:, :, None, start:stop]).sum(-1, keepdim=True) for own_keys, _ in later]
    weights = torch.cat((prefix.masked_fill(hidden, -torch.inf), *own), dim=-1).float().softmax(-1).to(q.dtype)
    seen: Tensor = weights[..., :stop] @ values[:, :, None, :stop]
    for number, (_, own_values) in enumerate(later):
        seen = seen + weights[..., stop + number, None] * own_values[:, :, None, start:stop]
    return seen


def _ends(model: PreTrainedModel) -> tuple[Tensor, nn.Linear]:
    """The embeddings [V, H] of a target, and its output layer. Raises `UnsupportedModel`."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    hidden = model.config.get_text_config(decoder=True).hidden_size
    assert isinstance(embedding, Tensor), "an embedding has a weight"
    if not isinstance(output, nn.Linear) or embedding.shape[1] != hidden or output.weight.shape[1] != hidden:
        raise UnsupportedModel(
            f"{type(model).__name__} has no output layer of the width of its hidden states and embeddings, so an "
            "EAGLE-3 head cannot be trained for it. Train a LongSpec head, or choose the drafter lookup."
        )
    return embedding.detach(), output


def _sizes(model: PreTrainedModel, num_features: int, vocab_size: int, training: Eagle3Training) -> HeadConfig:
    """A head whose layer is as large as one of the target's."""
    config = config_of_layer(model.config.get_text_config(decoder=True), 0)
    num_heads: int = config.num_attention_heads
    head_size: int = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return HeadConfig(
        is_eagle3=True,
        hidden_size=config.hidden_size,
        feature_size=num_features * config.hidden_size,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        num_heads=num_heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        head_size=head_size,
        rope=Rope.plain(head_size, training.rope_theta),
        norm_eps=getattr(config, "rms_norm_eps", None) or 1e-6,
        num_columns=vocab_size,
    )
