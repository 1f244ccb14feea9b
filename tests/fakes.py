"""Small real parts for tests: models with random weights, a byte tokenizer, presets on disk, scripted drafters."""

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from spec_engine.cache.store import TextMemory
from spec_engine.config import DraftConfig, DrafterKind, LookupConfig, ModelRef, Preset, RetrievalConfig, TreeConfig
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.tiny_models import tiny_model

VOCAB_SIZE = 260  # 256 bytes, then these
END_ID = 256
SPECIAL_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HEADS: dict[DrafterKind, str] = {"eagle3": "eagle", "longspec": "longspec", "mtp": "mtp"}  # folders of draft heads
SHAPES = ("llama", "llama-linear", "llama-llama3", "qwen2", "qwen3", "mistral", "smollm3")


def children(tree: DraftTree, node: int) -> tuple[int, ...]:
    """Nodes whose parent is `node`, in order."""
    return tuple(child for child, parent in enumerate(tree.parents) if parent == node)


def tiny_lm(shape: str = "llama", seed: int = 0, **changes: object) -> PreTrainedModel:
    """A tiny random model over the byte tokenizer's vocabulary: grouped queries, float32; `changes` of its config."""
    ids = {"vocab_size": VOCAB_SIZE, "bos_token_id": None, "eos_token_id": END_ID, "pad_token_id": VOCAB_SIZE - 1}
    return tiny_model(shape, seed, **{**ids, **changes})  # type: ignore[arg-type]


def perturbed(model: PreTrainedModel, share: float, seed: int = 1) -> PreTrainedModel:
    """A copy whose weights got noise of `share` times their own spread: a draft that agrees often, not always."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.dim() > 1:
                weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    return twin


def taught_lm(text: str) -> PreTrainedModel:
    """A tiny model that goes on with `text` over and over; what a random one says is noise to whoever learns it."""
    model = tiny_lm().requires_grad_(True)
    ids = torch.tensor(byte_tokenizer().encode(text * 4))
    num_starts, length = len(ids) // 4, 2 * len(ids) // 4 + 20
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        rows = torch.stack([ids[start : start + length] for start in range(step % 7, num_starts, 7)])
        logits = model(rows, use_cache=False).logits[:, :-1]
        cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.requires_grad_(False)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, four special tokens and a small chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_pair(folder: Path, target: PreTrainedModel, draft: PreTrainedModel) -> None:
    """Write ``folder/target`` and ``folder/draft`` as a hub download would look."""
    for name, model in (("target", target), ("draft", draft)):
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)


def pair_preset(
    folder: Path,
    kind: DrafterKind = "lm",
    *,
    tree: TreeConfig | None = None,
    retrieval: RetrievalConfig | None = None,
    context_length: int = 1024,
    prefill_chunk: int = 128,
) -> Preset:
    """A preset over the models that `save_pair` wrote; with the head that lies beside them for a kind that has one."""
    draft = DraftConfig(
        kind=kind,
        model=ModelRef(HEADS.get(kind, "draft"), dtype="float32"),
        tree=tree or TreeConfig(num_nodes=12, threshold=0.3, max_depth=6),
        retrieval=retrieval or RetrievalConfig(enabled=False),
        lookup=LookupConfig(num_draft=8),
    )
    return Preset(
        name="tiny",
        title="Tiny",
        description="Random weights.",
        target=ModelRef("target", dtype="float32"),
        context_length=context_length,
        draft=draft,
        prefill_chunk=prefill_chunk,
        folder=folder,
    )


class OracleDrafter:
    """Knows the answer and drafts it, with a wrong sibling at each level; notes what the engine tells it."""

    name = "oracle"
    memories: tuple[TextMemory, ...] = ()
    vocab_size = VOCAB_SIZE

    def __init__(self, prompt: Sequence[int], answer: Sequence[int], *, delay_s: float = 0.0) -> None:
        self._text = (*prompt, *answer)
        self._delay_s = delay_s
        self.observed: list[int] = []
        self.num_proposals = 0

    def begin(self, sampling: SamplingParams) -> "OracleDrafter":
        self.observed = []
        return self

    @property
    def taps(self) -> Taps:
        return Taps()

    def reusable(self, prefix: Sequence[int]) -> int:
        return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        self.observed = list(prefix)
        yield len(prefix)

    def observe(self, step: Step) -> None:
        self.observed.extend(step.token_ids)
        assert len(self.observed) == step.num_done

    def focus(self, focus: Focus) -> None:
        """No view."""

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        self.num_proposals += 1
        time.sleep(self._delay_s)
        start = len(self.observed) + 1
        token_ids, parents, depths = [root], [-1], [0]
        parent = 0
        for depth, token_id in enumerate(self._text[start : start + max_nodes // 2], start=1):
            token_ids += [token_id, (token_id + 1) % VOCAB_SIZE]
            parents += [parent, parent]
            depths += [depth, depth]
            parent = len(token_ids) - 2
        return DraftTree(tuple(token_ids), tuple(parents), tuple(depths), (0.0,) * len(token_ids))
