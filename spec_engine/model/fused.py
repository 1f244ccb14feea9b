"""A forward of ordinary decoder blocks in as few operations as they allow.

Job: `Fused`, which runs the weights of a Llama-like model as `Runner` does: projections joined, one normalisation
call, rotary tables looked up, residual sums within the products, no module calls. `fused` makes it where it fits and is
right.
Non-job: other architectures, quantised weights and layers on several devices, which keep transformers' own forward.

A pass over a few rows of a small model is mostly Python and small operators: the built-in target's takes 1.4 to 1.5
times as long through transformers on a CPU. On a GPU it is the kernels between the products, some 34 a layer there,
six here, three where our own products win (`block_products`). Each of them takes a microsecond or two even within a
captured graph: through transformers together as long as half of an 8B model's weights take to read.

It computes the same, in another order of rounding. In float32 the tests hold the text to that of transformers'
`generate`; in half precision sums and norms are rounded less often here.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from spec_engine.attention import Scoring
from spec_engine.attention.sdpa import CpuBackend
from spec_engine.cache.slots import SlotCache
from spec_engine.model.block_products import ChosenProducts, TorchProducts
from spec_engine.model.blocks import Block, block_of, modules_of, packed_block, replace_modules
from spec_engine.model.contest import Choice, Timer, Use, all_cuts, choose, gpu_timer, settle, usual_cuts
from spec_engine.model.hf_attention import Pass
from spec_engine.model.hf_cache import SlotAdapter
from spec_engine.model.norm import Norm
from spec_engine.model.products import Matrix, packs, warm_up_products
from spec_engine.model.runner import Runner

_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "smollm3")  # model types made of these blocks
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # whose angles depend on the position alone
_SMALL_MODEL = 256 << 20  # bytes; its modules keep their weights beside the packed ones
_CHECKED_TOKENS = 12
_CHECKED_AT = (0, 400)  # first positions
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class Fused:
    """The weights of `runner`'s model behind a `run` of the same meaning as `Runner.run`.

    The model's joined projections become views of the joined tensors, so nothing is held twice.
    """

    def __init__(self, runner: Runner) -> None:
        model, config = runner.model, runner.config
        self._device, self._backend = runner.device, runner.backend
        self._embedding = model.get_parameter("model.embed_tokens.weight")
        self._eps: float = config.rms_norm_eps
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = config.num_key_value_heads
        self._size = runner.shapes[0].key_size
        self._scoring = Scoring(self._size**-0.5)
        self._rotary = model.get_submodule("model.rotary_emb")
        self._norm = Norm(model.get_parameter("model.norm.weight"), self._eps)
        self._head = Matrix(model.get_parameter("lm_head.weight").t(), None)
        self._blocks = [
            block_of(model.get_submodule(f"model.layers.{number}"), window, self._eps)
            for number, window in enumerate(runner.layer_windows)
        ]
        self._cos, self._sin = self._tables(0)
        self._outgrown: list[Tensor] = []  # tables that captured passes may still read
        self._kernels = kernels_for(runner.device, runner.dtype, (self._num_heads, self._num_kv_heads, self._size))
        self._products = TorchProducts(self._kernels.gate if self._kernels else None)
        self._choice: Choice | None = None

    @torch.inference_mode()
    def run(
        self, cache: SlotAdapter, current: Pass, token_ids: Sequence[int], positions: Tensor, last: int = 0
    ) -> Tensor:
        """See `Forward`."""
        return self.forward(cache, current, torch.tensor(token_ids, device=self._device), positions, last)

    def forward(self, cache: SlotAdapter, current: Pass, token_ids: Tensor, positions: Tensor, last: int = 0) -> Tensor:
        """See `DeviceForward`."""
        num_new, products = len(token_ids), self._products
        x = F.embedding(token_ids, self._embedding)  # [T, H]
        angles = self._angles(positions.to(self._device), cache.slots.num_slots)
        features = {}
        for number, block in enumerate(self._blocks):
            if number in current.feature_layers:
                features[number] = x.clone()  # `added` writes to it
            mixed = products.normed(block.qkv, x, block.input_norm)
            query, keys, values = self._placed(mixed, block, number, cache, angles)
            if number == current.tap_layer:
                current.tapped = query, self._scoring
            seen = current.run(query, keys, values, block.window, self._scoring)
            seen = seen[0].transpose(0, 1).reshape(num_new, -1)
            x = products.added(block.out, seen, x)
            x = products.added(block.down, products.gated(block.gate_up, x, block.mlp_norm), x)
        if current.feature_layers:
            if len(self._blocks) in current.feature_layers:
                features[len(self._blocks)] = self._norm(x)
            current.features = torch.cat([features[layer] for layer in current.feature_layers], dim=-1)
        return products.normed(self._head, x[-last:], self._norm)

    def output(self, states: Tensor) -> Tensor:
        """Logits [n, V] of normalised states [n, H]."""
        return self._head(states)

    @torch.inference_mode()
    def warm_up(self, num_rows: int, num_keys: int) -> None:
        """See `warm_up`."""
        parts = [part for block in self._blocks for part in (block.qkv, block.out, block.gate_up, block.down)]
        warm_up_products((*parts, self._head), num_rows)
        if isinstance(self._backend, CpuBackend):
            num_groups = self._num_heads // self._num_kv_heads
            self._backend.warm_up(num_rows, num_keys, num_groups, self._size, self._embedding.dtype)

    def pack(self, model: nn.Module) -> None:
        """Hold the matrices in the processor's own order (`products`): of a small model besides, of a larger one
        instead of the old one, but for the output layer, which is often the embedding too. Then its modules compute by
        them."""
        is_small = sum(parameter.nbytes for parameter in model.parameters()) <= _SMALL_MODEL
        for number, block in enumerate(self._blocks):
            layer = model.get_submodule(f"model.layers.{number}")
            self._blocks[number] = packed_block(layer, block, keeps_modules=is_small)
        self._head = self._head.packed()

    @property
    def has_kernels(self) -> bool:
        """Whether there are kernels that may be faster than torch's products."""
        return self._kernels is not None

    @property
    def note(self) -> str:
        """Who does the products, where that was contested, in a sentence."""
        return self._choice.describe() if self._choice else ""

    @torch.inference_mode()
    def choose_products(self, timer: Timer, draft: nn.Module | None = None) -> None:
        """Have our kernels and torch's contest the products of few rows, and use what is faster by `timer`. `draft` is
        the model, if it only drafts: its matrices may be rounded to 8 bits."""
        uses = [
            Use("normed", tuple((block.qkv, block.input_norm) for block in self._blocks)),
            Use("added", tuple((block.out, None) for block in self._blocks)),
            Use("gated", tuple((block.gate_up, block.mlp_norm) for block in self._blocks)),
            Use("added", tuple((block.down, None) for block in self._blocks)),
            Use("normed", ((self._head, self._norm),)),
        ]
        self._choice = choose(uses, self._products, timer, usual_cuts if draft is None else all_cuts)
        self._products = ChosenProducts(self._products, self._choice.cuts)
        narrow = settle(uses, self._choice)
        if draft is not None:
            self._round(draft, narrow)

    def _round(self, model: nn.Module, narrow: Sequence[Matrix]) -> None:
        """Hold these matrices in 8 bits alone, but for an output layer that is the embedding too."""
        for number, block in enumerate(self._blocks):
            for owner, matrix, names in modules_of(model.get_submodule(f"model.layers.{number}"), block):
                if matrix in narrow and matrix.keep_narrow():
                    replace_modules(owner, matrix, names)
        is_tied = self._head.weight.data_ptr() == self._embedding.data_ptr()
        if self._head in narrow and not is_tied and self._head.keep_narrow():
            replace_modules(model, self._head, ("lm_head",))

    def _placed(
        self, mixed: Tensor, block: Block, layer: int, cache: SlotAdapter, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [1, Hq, T, D] out of the joined projection [T, (Hq + 2 Hk) D], turned; and all rows of the layer,
        the new ones among them."""
        heads, size = self._num_heads, self._size
        if self._kernels is not None:
            cos, sin = angles if block.is_rotated else (None, None)
            turn = self._kernels.Turn(cos, sin, block.head_weights, self._eps)
            sizes = self._kernels.Heads(heads, self._num_kv_heads, size)
            slots, keys, values = cache.places_for(layer, len(mixed))
            return self._kernels.turn_and_put(mixed, sizes, turn, slots, cache.slots.memory(layer)), keys, values
        rows = mixed.view(len(mixed), -1, size).transpose(0, 1)  # [Hq + 2 Hk, T, D]
        num_turned = heads + self._num_kv_heads
        turned, values = rows[:num_turned], rows[num_turned:]
        if block.head_norms:
            turned = self._normed_heads(turned, *block.head_norms)
        if block.is_rotated:
            cos, sin = angles
            turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
        return turned[None, :heads], *cache.update(turned[None, heads:], values[None], layer)

    def _normed_heads(self, turned: Tensor, query_norm: Norm, key_norm: Norm) -> Tensor:
        """Queries and keys [Hq + Hk, T, D] normalised head by head, as Qwen3 does."""
        queries, keys = turned[: self._num_heads], turned[self._num_heads :]
        return torch.cat((query_norm(queries), key_norm(keys)))

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


def kernels_for(device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> ModuleType | None:
    """Our kernels (`model.kernels`), where they can run; `heads` are Hq, Hk and D of a layer."""
    if importlib.util.find_spec("triton") is None:
        return None
    kernels = importlib.import_module("spec_engine.model.kernels")  # cannot be imported without Triton
    return kernels if kernels.can_run(device, dtype, kernels.Heads(*heads)) else None


def fused(runner: Runner, *, may_round: bool = False) -> "Fused | Runner":
    """The fast form of `runner`, or `runner` itself where the model is none of the ordinary ones; `may_round` its
    matrices to 8 bits where that is faster, as in a model that only drafts.

    A model is taken for an ordinary one when its type and weights say so and first passes of both give the same logits.
    """
    if not _is_ordinary(runner):
        return runner
    fast = Fused(runner)
    if runner.device.type == "cuda":
        torch.cuda.empty_cache()  # the parts that were joined: too small, each of them, for what is joined next
    if not _agree(runner, fast):
        return runner
    if packs(runner.device, runner.dtype):
        fast.pack(runner.model)
    timer = gpu_timer(runner.device)
    if fast.has_kernels and timer is not None:
        fast.choose_products(timer, runner.model if may_round else None)
    return fast


def warm_up(forward: object, num_rows: int, num_keys: int) -> None:
    """Have oneDNN make its kernels for passes of up to so many rows of `forward` over so many keys, where it is used:
    the first one of each form with each number of rows takes milliseconds, and a short answer meets many of them."""
    if isinstance(forward, Fused):
        forward.warm_up(num_rows, num_keys)


def num_packed_weights(model: nn.Module, dtype: torch.dtype) -> int:
    """Weights that a packed model of this form holds twice: all of a small one's matrices, else the output layer's."""
    num_bytes = dtype.itemsize * sum(parameter.numel() for parameter in model.parameters())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    chosen = linears if num_bytes <= _SMALL_MODEL else [model.get_submodule("lm_head")]
    return sum(module.get_parameter("weight").numel() for module in chosen)


def has_ordinary_blocks(config: PretrainedConfig) -> bool:
    """Whether a model of this configuration is made of blocks that `Fused` knows."""
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in _KNOWN or rope not in _STATIC_ROPE or config.hidden_act not in ("silu", "swish"):
        return False
    return getattr(config, "pretraining_tp", 1) in (None, 1)


def _is_ordinary(runner: Runner) -> bool:
    config = runner.config
    if not has_ordinary_blocks(config) or len(runner.shapes) != config.num_hidden_layers:
        return False
    linears = {name: module for name, module in runner.model.named_modules() if isinstance(module, nn.Linear)}
    is_plain = all(type(module) is nn.Linear and module.weight.device == runner.device for module in linears.values())
    has_bias = any(module.bias is not None for name, module in linears.items() if ".mlp." in name or "lm_" in name)
    return is_plain and not has_bias and len(linears) == 7 * config.num_hidden_layers + 1


def _agree(runner: Runner, fast: Fused) -> bool:
    """Whether first passes of both give the same logits, near the beginning and further on."""
    for first in _CHECKED_AT:
        want, got = (_first_logits(runner, forward, first) for forward in (runner, fast))
        if float((got - want).abs().max()) > _TOLERANCE[runner.dtype] * float(want.abs().max()):
            return False
    return True


def _first_logits(runner: Runner, forward: "Fused | Runner", first: int) -> Tensor:
    """Logits [T, V] of a few tokens from position `first` on, with nothing before them."""
    cache = runner.bind(SlotCache(runner.shapes, first + _CHECKED_TOKENS))
    tokens = [number % runner.vocab_size for number in range(1, _CHECKED_TOKENS + 1)]
    positions = torch.arange(first, first + _CHECKED_TOKENS)
    return forward.run(cache, Pass(runner.backend, 0, is_causal=True), tokens, positions).double()
