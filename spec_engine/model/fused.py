"""A forward of ordinary decoder blocks in as few operations as they allow, for draft models.

Job: `Fused`, which runs the weights of a Llama-like model as `Runner.run` does: projections joined, one normalisation
call, rotary tables looked up, no module calls. `fused` makes it where it fits and is right.
Non-job: the target, whose passes go through transformers' own forward; other architectures, which keep it too.

A draft runs once per level of a tree, over one to some ten rows. In a model of a few layers such a pass is mostly
Python and small operators: 2 layers of width 128 took 1.05 ms through transformers (CPU, 400 keys in view). What a
draft computes never decides what is said, only how often it is right, so rounding may differ here from transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec_engine.attention import Scoring
from spec_engine.cache.slots import SlotCache
from spec_engine.model.hf_attention import Pass
from spec_engine.model.hf_cache import SlotAdapter
from spec_engine.model.runner import Runner

_KNOWN = ("llama", "mistral", "qwen2", "qwen3")  # model types made of these blocks
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # whose angles depend on the position alone
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_CHECKED_TOKENS = 12
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True)
class _Block:
    """The weights of one layer; projections as [in, out], for ``x @ w``. `norms` [2, D] of queries and keys."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor
    window: int | None


class Fused:
    """The weights of `runner`'s model behind a `run` of the same meaning as `Runner.run`.

    The model's joined projections become views of the joined tensors, so nothing is held twice.
    """

    def __init__(self, runner: Runner) -> None:
        model, config = runner.model, runner.config
        self._device = runner.device
        self._embedding = model.get_parameter("model.embed_tokens.weight")
        self._eps: float = config.rms_norm_eps
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = config.num_key_value_heads
        self._size = runner.shapes[0].key_size
        self._scoring = Scoring(self._size**-0.5)
        self._rotary = model.get_submodule("model.rotary_emb")
        self._norm = model.get_parameter("model.norm.weight")
        self._head = model.get_parameter("lm_head.weight").t()
        self._blocks = [
            _block(model.get_submodule(f"model.layers.{number}"), window)
            for number, window in enumerate(runner.layer_windows)
        ]
        self._cos, self._sin = self._tables(0)
        self._outgrown: list[Tensor] = []  # tables that captured passes may still read

    @torch.inference_mode()
    def run(
        self, cache: SlotAdapter, current: Pass, token_ids: Sequence[int], positions: Tensor, last: int = 0
    ) -> Tensor:
        """See `Forward`."""
        return self.forward(cache, current, torch.tensor(token_ids, device=self._device), positions, last)

    def forward(self, cache: SlotAdapter, current: Pass, token_ids: Tensor, positions: Tensor, last: int = 0) -> Tensor:
        """See `DeviceForward`."""
        num_new, heads, size = len(token_ids), self._num_heads, self._size
        num_turned = heads + self._num_kv_heads
        x = F.embedding(token_ids, self._embedding)  # [T, H]
        cos, sin = self._angles(positions.to(self._device), cache.slots.num_slots)
        for number, block in enumerate(self._blocks):
            mixed = _linear(self._normed(x, block.input_norm), block.qkv, block.qkv_bias)
            rows = mixed.view(num_new, -1, size).transpose(0, 1)  # [Hq + 2 Hk, T, D]
            turned, values = rows[:num_turned], rows[num_turned:]
            if block.head_norms is not None:
                turned = self._normed_heads(turned, block.head_norms)
            turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
            keys, values = cache.update(turned[None, heads:], values[None], number)
            seen = current.run(turned[None, :heads], keys, values, block.window, self._scoring)
            x = x + _linear(seen[0].transpose(0, 1).reshape(num_new, -1), block.out, block.out_bias)
            gate, up = torch.mm(self._normed(x, block.mlp_norm), block.gate_up).chunk(2, -1)
            x = x + torch.mm(F.silu(gate) * up, block.down)
        return torch.mm(self._normed(x[-last:], self._norm), self._head)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.rms_norm(x, weight.shape, weight, self._eps)

    def _normed_heads(self, turned: Tensor, norms: Tensor) -> Tensor:
        """Queries and keys [Hq + Hk, T, D] normalised head by head, as Qwen3 does."""
        queries, keys = turned[: self._num_heads], turned[self._num_heads :]
        return torch.cat((self._normed(queries, norms[0]), self._normed(keys, norms[1])))

    def _angles(self, positions: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
        """cos and signed sin [T, D]. A position is never beyond the slots of its cache."""
        if num_slots > len(self._cos):
            self._outgrown += self._cos, self._sin
            self._cos, self._sin = self._tables(num_slots)
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Rotary tables [length, D]: with the sign in the sine, a turn is ``x * cos + roll(x, D / 2) * sin``."""
        positions = torch.arange(length, device=self._device)[None]
        with torch.inference_mode():
            cos, sin = self._rotary(self._embedding[:1, None], positions)
        half = self._size // 2
        return cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)


def fused(runner: Runner) -> "Fused | Runner":
    """The fast form of `runner`, or `runner` itself where the model is none of the ordinary ones.

    A model is taken for an ordinary one when its type and weights say so and first passes of both give the same logits.
    """
    if not _is_ordinary(runner):
        return runner
    fast = Fused(runner)
    tokens = [number % runner.vocab_size for number in range(1, _CHECKED_TOKENS + 1)]
    want, got = (_first_logits(runner, forward, tokens) for forward in (runner, fast))
    tolerance = _TOLERANCE[runner.dtype] * float(want.abs().max())
    return fast if float((got - want).abs().max()) <= tolerance else runner


def _is_ordinary(runner: Runner) -> bool:
    config = runner.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in _KNOWN or rope not in _STATIC_ROPE or config.hidden_act not in ("silu", "swish"):
        return False
    if getattr(config, "pretraining_tp", 1) not in (None, 1) or len(runner.shapes) != config.num_hidden_layers:
        return False
    linears = {name: module for name, module in runner.model.named_modules() if isinstance(module, nn.Linear)}
    is_plain = all(type(module) is nn.Linear and module.weight.device == runner.device for module in linears.values())
    has_bias = any(module.bias is not None for name, module in linears.items() if ".mlp." in name or "lm_" in name)
    return is_plain and not has_bias and len(linears) == 7 * config.num_hidden_layers + 1


def _first_logits(runner: Runner, forward: "Fused | Runner", tokens: list[int]) -> Tensor:
    cache = runner.bind(SlotCache(runner.shapes, len(tokens)))
    positions = torch.arange(len(tokens))
    return forward.run(cache, Pass(runner.backend, 0, is_causal=True), tokens, positions).double()


def _block(layer: nn.Module, window: int | None) -> _Block:
    linears = {name.split(".")[1]: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
    weights = dict(layer.named_parameters())
    qkv = [linears[name] for name in ("q_proj", "k_proj", "v_proj")]
    biases: list[Tensor] = [module.bias for module in qkv if module.bias is not None]
    norms: list[Tensor] = [weights[name] for name in _HEAD_NORMS if name in weights]
    return _Block(
        input_norm=weights["input_layernorm.weight"],
        qkv=_join(qkv),
        qkv_bias=torch.cat(biases) if biases else None,
        head_norms=torch.stack(norms) if norms else None,
        out=linears["o_proj"].weight.t(),
        out_bias=linears["o_proj"].bias,
        mlp_norm=weights["post_attention_layernorm.weight"],
        gate_up=_join([linears["gate_proj"], linears["up_proj"]]),
        down=linears["down_proj"].weight.t(),
        window=window,
    )


def _join(modules: Sequence[nn.Linear]) -> Tensor:
    """The weights side by side as [in, all out], in the memory order of the first; each module keeps a view."""
    by_columns = modules[0].weight.stride(0) == 1
    with torch.no_grad():
        rows = torch.cat([module.weight for module in modules])
        joined = rows.t().contiguous() if by_columns else rows.t()
        for module, part in zip(modules, joined.split([module.out_features for module in modules], 1), strict=True):
            module.weight = nn.Parameter(part.t(), requires_grad=False)
    return joined


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
