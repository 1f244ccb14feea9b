"""The recipes of the built-in models, from corpus to the folders in ``presets/builtin``.

Job: sizes, stages and the order tokenizer, target, draft. ``spec-engine train all --corpus FILE --out FOLDER`` runs it.
Non-job: the loop (loop.py), the tasks (objectives.py), the model card (written by hand from measured figures).

The target has two full layers without position embedding between sliding-window RoPE layers (SmolLM3's architecture in
transformers), so nothing in it depends on how far away a passage stands. The draft is an ordinary small Llama trained
on short contexts: it stands to the target's context as the drafts of SpecExtend (arXiv 2505.20776) stand to theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import LlamaConfig, PreTrainedTokenizerFast, SmolLM3Config

from spec_engine.errors import TrainingError
from spec_engine.train.batch import GuidedLayers
from spec_engine.train.corpus import END, PAD, TokenizedCorpus, read_corpus, train_tokenizer
from spec_engine.train.loop import Recipe, Stage, Trainer
from spec_engine.train.objectives import QuoteTasks

CONTEXT_LENGTH = 65536  # that the target is loaded with; how far its answers are right is measured, see the preset
DRAFT_CONTEXT_LENGTH = 1024  # the longest rows of its training
WITH_ROPE = (1, 1, 0, 1, 1, 0)  # by layer; 0: full attention without position embedding

DRILL_SHARE = {"target": 0.4, "draft": 0.0}  # the draft copies; which passage to quote is the target's choice


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What ``spec-engine train`` was asked for. `part`: tokenizer, target, draft or all."""

    part: str
    corpus: Path
    out: Path
    initial: Path | None = None  # weights to start from
    stages: tuple[Stage, ...] | None = None  # instead of the recipe's
    threads: int = 0
    limit_s: float = 0.0  # for each part


def parse_stages(spelling: str) -> tuple[Stage, ...]:
    """``256:64:4,512:32:6`` as stages (tokens a row, rows a step, millions of tokens). Raises `TrainingError`."""
    try:
        parts = [part.split(":") for part in spelling.split(",")]
        return tuple(Stage(int(length), int(rows), int(float(millions) * 1e6)) for length, rows, millions in parts)
    except ValueError:
        raise TrainingError(
            f"'{spelling}' is no list of stages. Write LENGTH:ROWS:MILLION_TOKENS, joined by commas."
        ) from None


def _common(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


def target_recipe(tokenizer: PreTrainedTokenizerFast) -> Recipe:
    """4.6 M parameters, context grown from 256 to 8K tokens."""
    config = SmolLM3Config.from_dict(
        {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": len(WITH_ROPE),
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "no_rope_layers": list(WITH_ROPE),
            "use_sliding_window": True,
            "sliding_window": 128,
            "layer_types": ["sliding_attention" if rope else "full_attention" for rope in WITH_ROPE],
            **_common(tokenizer),
        }
    )
    full = [layer for layer, rope in enumerate(WITH_ROPE) if not rope]
    stages = parse_stages("256:64:4,512:32:8,1024:16:25,2048:8:29,4096:4:33,8192:2:6")
    guided = GuidedLayers(previous=0, mark=full[0] - 1, match=full[0], gather=full[0] + 1, copy=full[-1])
    return Recipe(config, stages, guided=guided)


def draft_recipe(tokenizer: PreTrainedTokenizerFast) -> Recipe:
    """0.8 M parameters, contexts of at most 1K tokens, positions by RoPE in every layer."""
    config = LlamaConfig.from_dict(
        {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            **_common(tokenizer),
            "max_position_embeddings": DRAFT_CONTEXT_LENGTH,
        }
    )
    stages = parse_stages("256:32:7,512:16:5,1024:8:6")
    return Recipe(config, stages, guided=GuidedLayers(previous=0, copy=1), text_weight=0.1)


def train_builtin(job: TrainingJob, log: Callable[[str], None]) -> None:
    """Train what `job` names; a part that needs the tokenizer makes it when ``out/tokenizer`` is missing.

    Raises `TrainingError` for a corpus that cannot be read or a saved state of another shape.
    """
    folder = job.out / "tokenizer"
    documents = read_corpus(job.corpus)
    if job.part == "tokenizer" or not folder.is_dir():
        train_tokenizer(documents).save_pretrained(folder)
        log(f"tokenizer written to {folder}")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    recipes = {"target": target_recipe, "draft": draft_recipe}
    parts = [part for part in recipes if job.part in (part, "all")]
    if not parts:
        return
    corpus = TokenizedCorpus(documents, tokenizer.backend_tokenizer)
    log(f"{corpus.num_tokens / 1e6:.1f} M tokens, {len(corpus.train)} documents, {len(corpus.held_out)} held out")
    for part in parts:
        recipe = recipes[part](tokenizer)
        recipe = replace(recipe, stages=job.stages or recipe.stages, threads=job.threads, limit_s=job.limit_s)
        tasks = (QuoteTasks(corpus, "train", drill_share=DRILL_SHARE[part]), QuoteTasks(corpus, "held_out", seed=9))
        Trainer(recipe, tokenizer, tasks, job.out / part, initial=job.initial, log=log).run()
