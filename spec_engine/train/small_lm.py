"""Training a small language model as a draft for any target.

Job: `SmallLMObjective`: a fresh Llama with the target's vocabulary learns the target's own distribution.
Non-job: the loop (head_loop.py), the built-in draft with its tasks and its guided attention (builtin.py).

Distillation on text (DistillSpec, arXiv 2310.08461, section 4, with the forward Kullback-Leibler divergence), and for a
share of the loss the next token itself.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from spec_engine.errors import UnsupportedModel
from spec_engine.train.places import narrowed, sample_places

_NUM_DEPTHS = 4  # of a chain that acceptance is given for
_HEAD_SIZE = 32


@dataclass(frozen=True, slots=True)
class SmallLMTraining:
    """The draft's size, and what it learns. `text_share`: of the loss, how much is the next token of the text."""

    hidden_size: int = 256
    num_layers: int = 2
    text_share: float = 0.1
    sample_share: float = 0.5  # of a batch's tokens, how many predictions are learned at most


class SmallLMObjective:
    """A fresh draft for `model`, and its loss. `trained_length`: its longest row in tokens.

    Raises `UnsupportedModel` for a target without an output layer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        training: SmallLMTraining,
        trained_length: int,
        seed: int = 0,
    ) -> None:
        output = model.get_output_embeddings()
        if output is None:
            raise UnsupportedModel(f"{type(model).__name__} names no output layer. Choose another target.")
        config = _sizes(model, training, trained_length)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            draft = LlamaForCausalLM(config)
        self._draft = nn.Module.to(draft, model.device)
        self._model, self._output = model.requires_grad_(False), output
        self._tokenizer = tokenizer
        self._training = training
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def head(self) -> nn.Module:
        """The draft in float32."""
        return self._draft

    def loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean over a sample of the predictions that count."""
        places, learned = sample_places(weights, 0, self._training.sample_share, self._generator)
        wanted, drafted = self._run(ids, places)
        labels = ids.flatten()[places + 1]
        log_q = drafted.log_softmax(-1)
        divergence = F.kl_div(log_q, wanted.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        entropy = F.nll_loss(log_q, labels, reduction="none")
        share = self._training.text_share
        return (((1 - share) * divergence + share * entropy) * learned).sum() / learned.sum().clamp(min=1e-6)

    def acceptance(self, ids: Tensor, weights: Tensor) -> list[float]:
        """The same for every depth: along the data, a draft that reads nothing of the target knows no depth."""
        places, counted = sample_places((weights >= 1).float(), 0, self._training.sample_share, self._generator)
        wanted, drafted = self._run(ids, places)
        right = (wanted.argmax(-1) == drafted.argmax(-1)) * counted
        return [float(right.sum() / counted.sum().clamp(min=1.0))] * _NUM_DEPTHS

    def save(self, folder: Path) -> None:
        """In bfloat16, with the target's tokenizer, as ``draft.kind = "lm"`` loads it."""
        draft = LlamaForCausalLM(self._draft.config)
        draft.load_state_dict(self._draft.state_dict())
        nn.Module.to(draft, torch.bfloat16).save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _run(self, ids: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, V] in float32 at these places: the target's, which learns nothing, and the draft's."""
        with torch.autocast(ids.device.type, torch.bfloat16):
            with torch.no_grad(), narrowed(self._output, places):
                wanted: Tensor = self._model(ids, use_cache=False).logits[0]
            with narrowed(self._draft.lm_head, places):
                drafted: Tensor = self._draft(ids, use_cache=False).logits[0]
        return wanted.float(), drafted.float()


def _sizes(model: PreTrainedModel, training: SmallLMTraining, trained_length: int) -> LlamaConfig:
    """An ordinary small Llama whose columns are the target's."""
    config = model.config.get_text_config(decoder=True)
    num_heads = max(1, training.hidden_size // _HEAD_SIZE)
    return LlamaConfig.from_dict(
        {
            "vocab_size": len(model.get_output_embeddings().weight),
            "hidden_size": training.hidden_size,
            "intermediate_size": 2 * training.hidden_size,
            "num_hidden_layers": training.num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads // 2 if num_heads % 2 == 0 else num_heads,
            "head_dim": _HEAD_SIZE,
            "max_position_embeddings": trained_length,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }
    )
